"""What is true of both detectors: shapes, export, torchvision's names."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from fedfleet.errors import RecipeInvalid
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build, build_initial
from fedfleet.models.config import ModelConfig, SsdLiteOptions, SsdTinyOptions
from fedfleet.models.detection import anchors_of
from fedfleet.models.ssd_tiny import by_anchor
from fedfleet.models.torchvision_ops import ensure_torchvision_ops
from fedfleet.models.width import narrowed
from fedfleet.types import InputSpec

ensure_torchvision_ops()
from torchvision.models.detection import (  # noqa: E402
    SSDLite320_MobileNet_V3_Large_Weights,
    ssdlite320_mobilenet_v3_large,
)

DETECTORS: dict[str, Any] = {
    "ssd_tiny": SsdTinyOptions(),
    "ssdlite320_mobilenet_v3_large": SsdLiteOptions(),
}


def card(name: str, *, height: int = 64, width: int = 96, **options: Any) -> ModelCard:
    inputs = InputSpec(
        channels=3, height=height, width=width, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )
    return ModelCard(
        model=ModelConfig(architecture=name, options=replace(DETECTORS[name], **options)),
        inputs=inputs,
        classes=("circle", "square", "star"),
        kind="detection",
    )


@pytest.mark.parametrize("size", [(64, 96), (100, 65)])
@pytest.mark.parametrize("name", list(DETECTORS))
def test_detector_answers_every_anchor(name: str, size: tuple[int, int]) -> None:
    made = card(name, height=size[0], width=size[1])
    module = build(made).eval()

    answers = module(torch.randn(2, 3, *size))

    assert answers.shape == (2, len(anchors_of(made)), 4 + 1 + 3)


@pytest.mark.parametrize("name", list(DETECTORS))
def test_exported_detector_answers_as_the_module_at_any_batch(name: str) -> None:
    module = build(card(name)).eval()
    images = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter says that it is not the newest one
        torch.onnx.export(
            module,
            (images[:1],),
            file,
            dynamo=False,
            input_names=["images"],
            output_names=["answers"],
            dynamic_axes={"images": {0: "batch"}, "answers": {0: "batch"}},
        )
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])

    (found,) = session.run(None, {"images": images.numpy()})

    with torch.inference_mode():
        np.testing.assert_allclose(found, module(images).numpy(), atol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
def test_ssd_tiny_takes_every_normalisation(norm: str) -> None:
    module = build(card("ssd_tiny", norm=norm))

    assert module(torch.randn(2, 3, 64, 96)).isfinite().all()


def test_ssd_tiny_is_small() -> None:
    parameters = sum(param.numel() for param in build(card("ssd_tiny")).parameters())

    assert 400_000 < parameters < 600_000


def test_narrow_ssd_tiny_answers_the_same_anchors() -> None:
    wide = card("ssd_tiny")
    narrow = replace(wide, model=narrowed(wide.model, 0.25))

    answers = build(narrow)(torch.randn(2, 3, 64, 96))

    assert answers.shape[1:] == (len(anchors_of(wide)), 8)
    assert sum(p.numel() for p in build(narrow).parameters()) < 80_000


def test_ssdlite_has_no_narrower_levels() -> None:
    with pytest.raises(ValueError, match="has no option width"):
        narrowed(card("ssdlite320_mobilenet_v3_large").model, 0.5)


def test_rows_are_place_by_place_anchor_by_anchor() -> None:
    maps = torch.arange(2 * 6 * 2 * 3).reshape(2, 6, 2, 3)  # 3 anchors of 2 columns

    rows = by_anchor(maps, 3)

    assert rows.shape == (2, 18, 2)
    for row in range(2):
        for column in range(3):
            for anchor in range(3):
                place = (row * 3 + column) * 3 + anchor
                want = maps[:, 2 * anchor : 2 * anchor + 2, row, column]
                assert torch.equal(rows[:, place], want)


def test_ssdlite_is_torchvisions_network() -> None:
    theirs: Any = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    module = build(card("ssdlite320_mobilenet_v3_large")).eval()
    module.load_state_dict(theirs.state_dict())
    theirs.eval()
    images = torch.randn(1, 3, 64, 96)

    answers = module(images)

    found = theirs.head(list(theirs.backbone(images).values()))
    torch.testing.assert_close(answers[..., :4], found["bbox_regression"])
    torch.testing.assert_close(answers[..., 4:], found["cls_logits"])


def test_pretrained_start_keeps_the_new_classes_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file in torch's cache is what a download leaves; its weights are random ones here."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91)
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    name = Path(SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.url).name
    torch.save(cached.state_dict(), checkpoints / name)

    module = build_initial(card("ssdlite320_mobilenet_v3_large", pretrained=True))

    state, theirs = module.state_dict(), cached.state_dict()
    assert state["head.classification_head.module_list.0.1.weight"].shape[0] == 6 * 4
    torch.testing.assert_close(
        state["head.regression_head.module_list.0.1.weight"],
        theirs["head.regression_head.module_list.0.1.weight"],
    )
    torch.testing.assert_close(
        state["backbone.features.0.0.0.weight"], theirs["backbone.features.0.0.0.weight"]
    )


@pytest.mark.parametrize(
    ("name", "size"), [("ssd_tiny", 31), ("ssdlite320_mobilenet_v3_large", 63)]
)
def test_small_images_are_refused(name: str, size: int) -> None:
    with pytest.raises(RecipeInvalid, match=re.escape(f'"{name}"')):
        build(card(name, height=size))
