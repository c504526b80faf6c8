"""Annotations that came with somebody's images: they lead nowhere else and fill no memory."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedfleet.data.catalog import open_dataset
from fedfleet.data.config import CocoOptions, DataConfig, VocOptions
from fedfleet.errors import DataInvalid, FedFleetError

COCO = DataConfig(dataset="coco", options=CocoOptions(classes=("cat",)))
VOC = DataConfig(dataset="voc", options=VocOptions(classes=("cat",)))
MOST_KB = 100 << 10
# What leads out of a folder, here or on a system of another maker.
ESCAPES = (
    *("../secret.png", "/etc/passwd", "a/../../secret.png", "..", "a/..", "C:secret.png"),
    *("..\\secret.png", "\\\\host\\share\\secret.png", "secret.png\0.jpg", "\n../secret.png", ""),
)


def write_coco(root: Path, text: str) -> None:
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train.json").write_text(text)


def write_voc(root: Path, data: bytes, ids: str = "a\n") -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets" / "Main" / "trainval.txt").write_text(ids)
    (root / "Annotations" / "a.xml").write_bytes(data)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "JPEGImages" / "a.png")


@pytest.mark.parametrize("name", ESCAPES)
def test_coco_file_name_does_not_lead_out_of_the_folder(tmp_path, name):
    root = tmp_path / "data"
    (root / "train").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "secret.png")
    document = {
        "images": [{"id": 1, "file_name": name, "width": 8, "height": 8}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4]}],
    }
    write_coco(root, json.dumps(document))

    with pytest.raises(DataInvalid, match="images, id 1: file_name") as caught:
        open_dataset(COCO, "train", root)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("name", [escape for escape in ESCAPES if escape.strip(" \n")])
def test_voc_id_does_not_lead_out_of_the_folder(tmp_path, name):
    root = tmp_path / "data"
    write_voc(root, b"<annotation/>", ids=f"{name}\n")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "secret.png")

    with pytest.raises(FedFleetError) as caught:
        open_dataset(VOC, "train", root)
    assert caught.value.code == "DATA_INVALID"
    assert "ImageSets/Main/trainval.txt, line" in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("name", ["train/../../x", ".hidden", "a/b", "", "C:x"])
def test_recipe_names_no_set_outside_the_folder(name):
    with pytest.raises(ValueError, match="cannot be the name of a set"):
        CocoOptions(classes=("cat",), train=name)


LAUGHS = b"".join(b'<!ENTITY l%d "%s">' % (i, b"&l%d;" % (i - 1) * 10) for i in range(1, 12))
BOMBS = {
    "billion laughs": b'<!DOCTYPE a [<!ENTITY l0 "ha">' + LAUGHS + b"]><a>&l11;</a>",
    "quadratic": b'<!DOCTYPE a [<!ENTITY x "'
    + b"x" * 50_000
    + b'">]><a>'
    + b"&x;" * 50_000
    + b"</a>",
    "file": b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
    "network": b'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd"><a/>',
    "parameter": b'<!DOCTYPE a [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x"> %p;]><a/>',
    "deep": b"<a>" * 300_000,
    "deep and closed": b"<a>" * 140_000 + b"</a>" * 140_000,
    "large": b"<a>" + b"x" * (64 << 20) + b"</a>",
    "wide": b"<a>" + b"<b/>" * 250_000 + b"</a>",
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_xml_bomb_is_refused_in_little_memory(tmp_path, name):
    write_voc(tmp_path, BOMBS[name])
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(DataInvalid, match=r"^Annotations/a.xml: ") as caught:
        open_dataset(VOC, "train", tmp_path)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < MOST_KB
    assert "root:" not in caught.value.message


NUMBERS = ("9" * 10_000, "1e999", "-1e999", "NaN", "Infinity", "true", "[[[[1]]]]", "1" + "0" * 400)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("field", ["id", "width", "image_id", "category_id", "bbox", "iscrowd"])
def test_coco_number_of_any_size_is_refused_in_a_line_or_read(tmp_path, field, number):
    values = {
        "id": "1",
        "width": "8",
        "image_id": "1",
        "category_id": "1",
        "bbox": "4",
        "iscrowd": "0",
    }
    values[field] = number
    image = '{"id": ID, "file_name": "a.png", "width": WIDTH, "height": 8}'
    one = '{"id": 1, "image_id": IMAGE_ID, "category_id": CATEGORY_ID, "iscrowd": ISCROWD, '
    text = f'{{"images": [{image}], "annotations": [{one}"bbox": [0, 0, 4, BBOX]}}], '
    text += '"categories": [{"id": 1, "name": "cat"}]}'
    for name in sorted(values, key=len, reverse=True):
        text = text.replace(f" {name.upper()}", f" {values[name]}")
    write_coco(tmp_path, text)

    with pytest.raises(FedFleetError) as caught:
        open_dataset(COCO, "train", tmp_path)
    assert caught.value.code in ("DATA_INVALID", "DATA_EMPTY")
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "text", ["[" * 500_000, '{"images":' * 200_000, '{"images": [' + "{}," * 9]
)
def test_coco_json_that_is_deep_or_cut_off_is_refused(tmp_path, text):
    write_coco(tmp_path, text)

    with pytest.raises(DataInvalid, match="is not readable JSON"):
        open_dataset(COCO, "train", tmp_path)
