from __future__ import annotations

import numpy as np
import pytest
import torch
from boxed import SIDE, squares

from fedfleet.data.boxes import ignored_label
from fedfleet.training.augment import Draws, augment, draw
from fedfleet.training.box_augment import augment_boxes
from fedfleet.training.seeding import torch_generator


@pytest.mark.parametrize("kind", ["flip", "flip-crop"])
def test_boxes_stay_around_what_is_drawn(kind: str) -> None:
    examples = squares(200, seed=3)
    assert examples.boxes is not None
    images, boxes = torch.from_numpy(examples.images), torch.from_numpy(examples.boxes)
    draws = draw(kind, 200, (SIDE, SIDE), torch_generator(1))  # type: ignore[arg-type]
    assert draws is not None

    moved, found = augment(images, draws), augment_boxes(boxes, draws, (SIDE, SIDE))

    seen = 0
    for image, rows in zip(moved.numpy(), found.numpy(), strict=True):
        for label, *corners in rows[rows[:, 0] >= 0]:
            left, top, right, bottom = (SIDE * np.array(corners)).round().astype(int)
            inside = image[:, top:bottom, left:right]
            assert inside.size
            assert (inside == (250 if label == 0 else 5)).all()
            seen += 1
    assert seen > 100


def test_box_whose_middle_is_cut_off_is_none() -> None:
    # The crop of 4 pixels moves to the right and down by as many.
    boxes = torch.tensor([[[0, 0.0, 0.0, 0.2, 0.2], [1, 0.0, 0.0, 0.5, 0.5]]])
    draws = Draws(torch.tensor([False]), torch.tensor([[8, 8]]))

    found = augment_boxes(boxes, draws, (32, 32))

    assert found[0, 0, 0] == -1
    torch.testing.assert_close(found[0, 1], torch.tensor([1, 0.0, 0.0, 0.375, 0.375]))


def test_flip_mirrors_and_leaves_what_is_no_box() -> None:
    boxes = torch.tensor([[[2, 0.1, 0.2, 0.4, 0.6], [-1, 0, 0, 0, 0]]] * 2)
    draws = Draws(torch.tensor([True, False]), None)

    found = augment_boxes(boxes, draws, (32, 32))

    torch.testing.assert_close(found[0, 0], torch.tensor([2, 0.6, 0.2, 0.9, 0.6]))
    assert torch.equal(found[1], boxes[1])
    assert found[0, 1, 0] == -1


def test_what_a_crop_leaves_of_an_ignored_region_stays_ignored() -> None:
    boxes = torch.tensor([[[ignored_label(1), 0.0, 0.0, 0.2, 0.5]]])
    draws = Draws(torch.tensor([False]), torch.tensor([[8, 8]]))

    found = augment_boxes(boxes, draws, (32, 32))

    assert found[0, 0, 0] == ignored_label(1)
    assert found[0, 0, 1:].tolist() == pytest.approx([0, 0, 0.075, 0.375])
