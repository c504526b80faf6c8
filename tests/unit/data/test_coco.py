from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO as PeersReader

from fedfleet.data import coco
from fedfleet.data.boxed_files import MAX_BOXES
from fedfleet.data.boxes import NO_BOX, ignored_label
from fedfleet.data.catalog import describe, open_dataset
from fedfleet.data.config import CocoOptions, DataConfig
from fedfleet.data.images import BoxedImages
from fedfleet.data.shard import load_examples
from fedfleet.errors import DataEmpty, DataInvalid, DataMissing, ImageTooLarge

WHERE = "annotations/instances_train.json"
Document = dict[str, Any]


def config(*classes: str, **options: Any) -> DataConfig:
    return DataConfig(dataset="coco", options=CocoOptions(classes=classes, **options))


CONFIG = config("dog", "cat", image_size=32)


def document() -> Document:
    """Two images of a dog and a cat, a third of nothing; a bird that nobody asks for."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 20},
            {"id": 3, "file_name": "deep/b.png", "width": 20, "height": 40},
            {"id": 9, "file_name": "c.png", "width": 10, "height": 10},
        ],
        "categories": [
            {"id": 1, "name": "cat"},
            {"id": 18, "name": "dog"},
            {"id": 16, "name": "bird"},
        ],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 1, "bbox": [5, 10, 10, 20], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 18, "bbox": [0, 0, 20, 10.0], "iscrowd": 0},
            {"id": 3, "image_id": 7, "category_id": 16, "bbox": [1, 1, 30, 15]},
            {"id": 4, "image_id": 3, "category_id": 18, "bbox": [0, 0, 20, 40], "iscrowd": 1},
            {"id": 5, "image_id": 3, "category_id": 18, "bbox": [15, 36, 10, 10]},
        ],
    }


def write(root: Path, value: Any, where: str = WHERE) -> Path:
    (root / where).parent.mkdir(parents=True, exist_ok=True)
    (root / where).write_text(json.dumps(value))
    return root


@pytest.fixture
def data_dir(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    for file, (width, height) in {"a": (40, 20), "deep/b": (20, 40), "c": (10, 10)}.items():
        path = tmp_path / "train" / f"{file}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[: height // 2, : width // 2] = 200
        path.write_bytes(encode(pixels))
    return write(tmp_path, document())


def opened(root: Path, chosen: DataConfig = CONFIG) -> BoxedImages:
    images = open_dataset(chosen, "train", root)
    assert isinstance(images, BoxedImages)
    return images


def test_coco_reads_images_in_the_files_order_and_labels_in_the_recipes(data_dir):
    examples = load_examples(CONFIG, "train", seed=0, shard=None, data_dir=data_dir)

    assert examples.images.shape == (3, 3, 32, 32)
    assert examples.labels.tolist() == [0, 1, 0]
    assert examples.boxes is not None
    np.testing.assert_allclose(
        examples.boxes,
        [
            [[0, 0, 0, 0.5, 0.5], [-1, 0, 0, 0, 0], [-1, 0, 0, 0, 0]],
            # The dogs are a crowd, which is ignored. The last one reaches out of the picture.
            [[1, 0.25, 0.25, 0.75, 0.75], [ignored_label(0), 0, 0, 1, 1], [0, 0.75, 0.9, 1, 1]],
            [[-1, 0, 0, 0, 0], [-1, 0, 0, 0, 0], [-1, 0, 0, 0, 0]],
        ],
    )


def test_coco_scales_the_whole_image_so_that_boxes_stay_on_what_they_show(data_dir):
    images = opened(data_dir).load(np.array([1, 0]))

    for pixels in images:
        assert (pixels[:, :15, :15] == 200).all()
        assert (pixels[:, 17:, :] == 0).all()
        assert (pixels[:, :, 17:] == 0).all()


def test_coco_reads_the_file_beside_the_images_too(data_dir):
    (data_dir / WHERE).rename(data_dir / "train" / "_annotations.coco.json")

    assert opened(data_dir).labels.tolist() == [0, 1, 0]


def test_coco_reads_the_sets_that_the_recipe_names(tmp_path):
    for name in ("train2017", "val2017"):
        write(tmp_path, document(), f"annotations/instances_{name}.json")
    chosen = config("cat", train="train2017", test="val2017")

    for split in ("train", "test"):
        assert len(open_dataset(chosen, split, tmp_path).labels) == 3


def test_coco_describes_itself_without_data():
    spec = describe(config("person", image_size=320))

    assert spec.kind == "detection"
    assert spec.classes == ("person",)
    assert spec.inputs.shape == (3, 320, 320)


SIDES = st.integers(1, 300)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True))
    ids = draw(st.lists(st.integers(0, 90), min_size=len(names), max_size=len(names), unique=True))
    numbers = draw(st.lists(st.integers(0, 10**12), min_size=1, max_size=4, unique=True))
    images = [
        {"id": number, "file_name": f"{number}.jpg", "width": draw(SIDES), "height": draw(SIDES)}
        for number in numbers
    ]
    annotations = []
    for number in range(draw(st.integers(1, 8))):
        image = draw(st.sampled_from(images))
        left, top = (draw(st.integers(0, 4 * image[side] - 4)) / 4 for side in ("width", "height"))
        size = [draw(st.integers(4, 1600)) / 4 for _ in range(2)]
        annotations.append(
            {
                "id": number,
                "image_id": image["id"],
                "category_id": draw(st.sampled_from(ids)),
                "bbox": [left, top, *size],
                "area": size[0] * size[1],
                "iscrowd": draw(st.integers(0, 1)),
            }
        )
    categories = [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)]
    return {"images": images, "categories": categories, "annotations": annotations}


def _label(index: int, one: dict[str, Any]) -> float:
    return float(ignored_label(index) if one["iscrowd"] else index)


@given(documents(), st.permutations("abcdef"))
@settings(max_examples=40, deadline=None)
def test_coco_holds_what_pycocotools_reads(value, classes):
    with TemporaryDirectory() as folder:
        root = write(Path(folder), value)
        reader = PeersReader(str(root / WHERE))
        names = {row["id"]: row["name"] for row in reader.loadCats(reader.getCatIds())}
        expected: Mapping[int, list[list[float]]] = {
            image["id"]: [
                [_label(classes.index(names[one["category_id"]]), one), *one["bbox"]]
                for one in reader.loadAnns(reader.getAnnIds(imgIds=image["id"]))
            ]
            for image in value["images"]
        }
        if not reader.getAnnIds(iscrowd=False):
            with pytest.raises(DataEmpty):
                opened(root, config(*classes))
            return
        images = opened(root, config(*classes))
        boxes = images.load_boxes(np.arange(len(images.labels)))

    for row, image in zip(boxes, value["images"], strict=True):
        sides = np.array([image["width"], image["height"]])
        found = sorted(row[row[:, 0] != NO_BOX].tolist())
        want = []
        for label, left, top, width, height in expected[image["id"]]:
            low = np.array([left, top]) / sides
            high = np.minimum(np.array([left + width, top + height]) / sides, 1)
            want.append([label, *low, *high])
        np.testing.assert_allclose(found, sorted(want), atol=1e-6)


def test_crowd_whose_box_is_wrong_is_no_reason_to_refuse_the_set(data_dir):
    write(data_dir, broken("annotations", 3, bbox=[90, 2, 5, 4]))

    boxes = opened(data_dir).load_boxes(np.array([1]))

    assert boxes[0, :, 0].tolist() == [1, 0]


def broken(table: str, place: int, **values: Any) -> Document:
    value = document()
    value[table][place] |= values
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "must be a JSON object"),
        ({"images": []}, 'needs a list "categories"'),
        ({**document(), "images": {}}, 'needs a list "images"'),
        ({**document(), "images": [5]}, "images, number 1: must be a JSON object"),
        (broken("images", 1, id=7), "images, id 7: needs an id of its own"),
        (broken("images", 1, id="x"), "images, number 2: needs an id"),
        (broken("images", 1, width=0), "images, id 3: width and height must be whole"),
        (broken("images", 1, width=2.5), "images, id 3: width and height"),
        (broken("images", 1, width=True), "images, id 3: width and height"),
        (broken("images", 1, width=10**9), "images, id 3: the image has more than 24 mega"),
        (broken("images", 1, file_name=None), "images, id 3: file_name"),
        (broken("categories", 1, id=1), "categories, id 1: the id or the name"),
        (broken("categories", 1, name="cat"), "categories, id 18: the id or the name"),
        (broken("categories", 1, name=4), "categories, id 18: needs"),
        (broken("annotations", 1, image_id=8), "annotations, id 2: its image_id is not"),
        (broken("annotations", 1, image_id=[7]), "annotations, id 2: its image_id is not"),
        (broken("annotations", 1, category_id=2), "annotations, id 2: its category_id is not"),
        (broken("annotations", 1, bbox=[1, 2, 3]), "annotations, id 2: bbox must be four"),
        (broken("annotations", 1, bbox="abcd"), "annotations, id 2: bbox must be four"),
        (broken("annotations", 1, bbox=[1, 2, "3", 4]), "annotations, id 2: bbox must be four"),
        (broken("annotations", 1, bbox=[1, 2, float("nan"), 4]), "annotations, id 2: bbox"),
        (broken("annotations", 1, bbox=[1, 2, float("inf"), 4]), "annotations, id 2: bbox"),
        (broken("annotations", 1, bbox=[1, 2, -1, 4]), "annotations, id 2: bbox has a width"),
        (broken("annotations", 1, bbox=[90, 2, 5, 4]), "annotations, id 2: .* outside the image"),
        (broken("annotations", 2, bbox=[]), "annotations, id 3: bbox must be four"),
    ],
)
def test_coco_names_the_file_and_the_id_of_what_is_wrong(tmp_path, value, text):
    with pytest.raises(DataInvalid, match=text) as caught:
        opened(write(tmp_path, value))

    assert caught.value.code == "DATA_INVALID"
    assert caught.value.message.startswith(WHERE)
    assert str(tmp_path) not in caught.value.message


def test_coco_leaves_boxes_without_area_out(data_dir):
    value = document()
    value["annotations"][1]["bbox"] = [3, 4, 0, 5]

    boxes = opened(write(data_dir, value)).load_boxes(np.array([0]))

    assert (boxes[:, :, 0] == -1).all()


def test_coco_without_a_box_of_the_recipes_classes_is_empty(data_dir):
    with pytest.raises(DataEmpty, match=r"its own classes are: bird, cat, dog") as caught:
        opened(data_dir, config("cow", "horse"))

    assert caught.value.code == "DATA_EMPTY"


def test_coco_without_an_image_is_empty(tmp_path):
    with pytest.raises(DataEmpty, match="names no image"):
        opened(write(tmp_path, {"images": [], "categories": [], "annotations": []}))


@pytest.mark.parametrize("given", [None, "empty"])
def test_coco_that_is_not_there_is_missing(tmp_path, given):
    with pytest.raises(DataMissing, match=r"instances_train\.json") as caught:
        open_dataset(CONFIG, "train", tmp_path if given else None)

    assert caught.value.code == "DATA_MISSING"
    assert str(tmp_path) not in caught.value.message


def test_coco_names_an_image_with_too_many_boxes(data_dir):
    value = document()
    value["annotations"] += [value["annotations"][1]] * MAX_BOXES

    with pytest.raises(DataInvalid, match=rf"train/a.png has {MAX_BOXES + 1} boxes, at most"):
        opened(write(data_dir, value))


def test_coco_names_an_image_that_is_not_there_or_broken(data_dir):
    (data_dir / "train" / "a.png").unlink()
    (data_dir / "train" / "c.png").write_bytes(b"no image")
    images = opened(data_dir)

    with pytest.raises(DataInvalid, match=r"^train/a.png cannot be read"):
        images.load(np.array([0]))
    with pytest.raises(DataInvalid, match=r"^train/c.png: the bytes are not a readable image"):
        images.load(np.array([2]))


def test_coco_names_an_image_of_another_size_than_its_boxes_were_drawn_on(data_dir, encode):
    (data_dir / "train" / "c.png").write_bytes(encode(np.zeros((10, 20, 3), np.uint8)))

    with pytest.raises(DataInvalid, match=r"^train/c.png has 20x10 pixels, .* drawn on 10x10"):
        opened(data_dir).load(np.array([2]))


def test_coco_names_an_image_bomb(data_dir, encode):
    (data_dir / "train" / "c.png").write_bytes(encode(np.zeros((5000, 5000), np.uint8)))

    with pytest.raises(ImageTooLarge, match=r"^train/c.png: .*24 megapixels"):
        opened(data_dir).load(np.array([2]))


def test_coco_reads_no_file_that_is_too_large(data_dir, monkeypatch):
    monkeypatch.setattr(coco, "MAX_JSON_BYTES", 100)

    with pytest.raises(DataInvalid, match=r"instances_train.json has 0 MiB, at most 0 are read"):
        opened(data_dir)
