from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.data.boxed_files import clip_box
from fedfleet.data.boxes import ignored_label
from fedfleet.data.catalog import describe, open_dataset
from fedfleet.data.config import DataConfig, VocOptions
from fedfleet.data.images import BoxedImages
from fedfleet.data.shard import load_examples
from fedfleet.errors import DataEmpty, DataInvalid, DataMissing

CONFIG = DataConfig(
    dataset="voc", options=VocOptions(classes=("dog", "person"), image_size=32, train="train")
)
BOX = (1, 1, 20, 10)


def thing(name: str, box: tuple[object, ...] = BOX, more: str = "") -> str:
    sides = "".join(
        f"<{side}>{escape(str(value))}</{side}>"
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=False)
    )
    return f"<object><name>{name}</name>{more}<bndbox>{sides}</bndbox></object>"


def annotation(*objects: str, width: object = 40, height: object = 20) -> str:
    return (
        "<annotation><filename>../elsewhere.jpg</filename><size>"
        f"<width>{width}</width><height>{height}</height><depth>3</depth></size>"
        f"{''.join(objects)}</annotation>"
    )


PART = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin></bndbox></part>"


@pytest.fixture
def data_dir(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("b\na\n\n")
    (tmp_path / "ImageSets/Main/test.txt").write_text("000001  1\n")
    for name in ("a", "b", "000001"):
        suffix = "png" if name == "a" else "jpg"
        picture = encode(np.full((20, 40, 3), 90, np.uint8), {"jpg": "JPEG"}.get(suffix, "PNG"))
        (tmp_path / "JPEGImages" / f"{name}.{suffix}").write_bytes(picture)
        (tmp_path / "Annotations" / f"{name}.xml").write_text(annotation(thing("dog")))
    objects = (
        thing("person", (21.0, 11, 40, 20), PART),
        thing("cow"),
        thing("dog", (1, 1, 10, 10), "<difficult>0</difficult><truncated>1</truncated>"),
        thing("dog", BOX, "<difficult>1</difficult>"),
    )
    (tmp_path / "Annotations" / "b.xml").write_text(annotation(*objects))
    return tmp_path


def opened(root: Path) -> BoxedImages:
    images = open_dataset(CONFIG, "train", root)
    assert isinstance(images, BoxedImages)
    return images


def test_voc_reads_the_lists_images_and_the_recipes_classes(data_dir):
    examples = load_examples(CONFIG, "train", seed=0, shard=None, data_dir=data_dir)

    assert examples.images.shape == (2, 3, 32, 32)
    assert np.abs(examples.images.astype(int) - 90).max() <= 2
    assert examples.labels.tolist() == [1, 0]
    assert examples.boxes is not None
    np.testing.assert_allclose(
        examples.boxes,
        [
            # The last dog is difficult.
            [[1, 0.5, 0.5, 1, 1], [0, 0, 0, 0.25, 0.5], [ignored_label(0), 0, 0, 0.5, 0.5]],
            [[0, 0, 0, 0.5, 0.5], [-1, 0, 0, 0, 0], [-1, 0, 0, 0, 0]],
        ],
    )
    assert open_dataset(CONFIG, "test", data_dir).labels.tolist() == [0]


def test_voc_describes_itself_without_data():
    spec = describe(CONFIG)

    assert spec.kind == "detection"
    assert spec.classes == ("dog", "person")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "is not XML"),
        ("<annotation>", "is not XML"),
        ("<annotation/>", "width and height must be whole numbers"),
        (annotation(width="x"), "width and height"),
        (annotation(width=-4), "width and height"),
        (annotation(width=0), "width and height"),
        (annotation(width=999999999), "more than 24 megapixels"),
        (annotation(width="9" * 5000), "width and height"),
        (annotation(thing("")), "object 1 has no name"),
        (annotation(thing("dog"), thing("cow", (1, 2, 3))), r"object 2 \(cow\): .* no ymax"),
        (annotation(thing("dog", (1, 2, "x", 4))), r"object 1 \(dog\): xmax = 'x' is not a number"),
        (annotation(thing("dog", (1, 2, "nan", 4))), r"object 1 \(dog\): .* finite"),
        (annotation(thing("dog", (1, 2, "1e999", 4))), r"object 1 \(dog\): .* finite"),
        (annotation(thing("dog", (9, 2, 3, 4))), r"object 1 \(dog\): the box ends before"),
        (
            annotation(thing("dog", (90, 2, 95, 4))),
            r"object 1 \(dog\): .* outside the image",
        ),
    ],
)
def test_voc_names_the_file_and_the_object_that_is_wrong(data_dir, content, text):
    (data_dir / "Annotations" / "a.xml").write_text(content)

    with pytest.raises(DataInvalid, match=rf"^Annotations/a.xml: .*{text}") as caught:
        opened(data_dir)

    assert caught.value.code == "DATA_INVALID"
    assert "\n" not in caught.value.message
    assert str(data_dir) not in caught.value.message


def test_difficult_object_whose_box_is_wrong_is_no_reason_to_refuse_the_set(data_dir):
    wrong = thing("dog", (90, 2, 95, 4), "<difficult>1</difficult>")
    (data_dir / "Annotations" / "a.xml").write_text(annotation(thing("person"), wrong))

    boxes = opened(data_dir).load_boxes(np.array([1]))

    assert boxes[0, :, 0].tolist() == [1]


@pytest.mark.parametrize(
    "gone", ["Annotations/a.xml", "JPEGImages/a.png", "ImageSets/Main/train.txt"]
)
def test_voc_that_is_not_all_there_is_missing(data_dir, gone):
    (data_dir / gone).unlink()

    with pytest.raises(DataMissing, match=gone.replace(".png", ".jpg")) as caught:
        opened(data_dir)
    assert caught.value.code == "DATA_MISSING"


def test_voc_without_a_folder_is_missing():
    with pytest.raises(DataMissing, match="set FEDFLEET_DATA_DIR"):
        open_dataset(CONFIG, "train", None)


def test_voc_without_a_box_of_the_recipes_classes_is_empty(data_dir):
    for name in ("a", "b"):
        (data_dir / "Annotations" / f"{name}.xml").write_text(annotation(thing("cow")))

    with pytest.raises(DataEmpty, match="its own classes are: cow"):
        opened(data_dir)


def test_voc_with_an_empty_list_is_empty(data_dir):
    (data_dir / "ImageSets/Main/train.txt").write_text("\n \n")

    with pytest.raises(DataEmpty, match=r"ImageSets/Main/train\.txt names no image"):
        opened(data_dir)


def test_voc_with_an_image_twice_in_the_list_is_invalid(data_dir):
    (data_dir / "ImageSets/Main/train.txt").write_text("a\nb\na\n")

    with pytest.raises(DataInvalid, match="line 3: a stands in the list twice"):
        opened(data_dir)


@given(st.tuples(*[st.floats(-50, 250)] * 4), st.integers(1, 200), st.integers(1, 200))
def test_boxes_that_are_read_lie_in_the_image_and_have_an_area(corners, width, height):
    try:
        box = clip_box(corners, width, height)
    except ValueError:
        left, top, right, bottom = corners
        is_outside = right < 0 or bottom < 0 or left > width or top > height
        assert right < left or bottom < top or is_outside
        return
    if box is None:
        return
    left, top, right, bottom = np.array(box, np.float32)
    assert 0 <= left < right <= 1
    assert 0 <= top < bottom <= 1
    inside = np.clip(corners, 0, [width, height] * 2) / ([width, height] * 2)
    np.testing.assert_allclose(box, inside, atol=1e-6)
