"""``coco``: images and boxes as COCO keeps them (Lin et al. 2014, arXiv:1405.0312), which most
tools that people draw boxes with can write.

Read are ``images`` (id, file_name, width, height), ``categories`` (id, name) and ``annotations``
(image_id, category_id, bbox as left, top, width, height in pixels, iscrowd). The box of a crowd
stands for many things: it is a region that is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedfleet.data.boxed_files import (
    BoxedFile,
    boxed_spec,
    check_size,
    clip_box,
    open_files,
    relative_path,
)
from fedfleet.data.boxes import ignored_label
from fedfleet.data.catalog import DatasetSource, DatasetSpec, Split
from fedfleet.data.config import CocoOptions
from fedfleet.data.images import BoxedImages
from fedfleet.errors import DataInvalid, DataMissing

# COCO's own training set takes 448 MiB.
MAX_JSON_BYTES = 512 << 20


@dataclass(frozen=True)
class Coco:
    """The data set; its classes are the recipe's, its images the device's."""

    def describe(self, options: CocoOptions) -> DatasetSpec:
        return boxed_spec(options.classes, options.image_size)

    def open(self, options: CocoOptions, split: Split, data_dir: Path | None) -> BoxedImages:
        """Read a split's JSON file; opens no image."""
        name = options.train if split == "train" else options.test
        if data_dir is None:
            raise DataMissing(
                "coco: set FEDFLEET_DATA_DIR (or --data-dir) to the folder that holds "
                f"{name}/ and annotations/instances_{name}.json"
            )
        places = (f"annotations/instances_{name}.json", f"{name}/_annotations.coco.json")
        for where in places:
            if (data_dir / where).is_file():
                break
        else:
            raise DataMissing(f"the data folder holds neither {places[0]} nor {places[1]}")
        document = _read(data_dir / where, where)
        categories = _categories(document, where)
        files = _files(document, where, name, categories, options.classes)
        inputs = self.describe(options).inputs
        return open_files(data_dir, files, inputs, where=where, found=categories.values())


def _read(path: Path, where: str) -> Mapping[str, Any]:
    """The JSON document. Any: whatever a file can hold."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise DataInvalid(
                f"{where} has {size >> 20} MiB, at most {MAX_JSON_BYTES >> 20} are read; split it"
            )
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataInvalid(f"{where} is not readable JSON", detail=repr(error)[:500]) from error
    if not isinstance(document, dict):
        raise DataInvalid(f"{where} is not a COCO file: it must be a JSON object")
    return document


def _rows(document: Mapping[str, Any], table: str, where: str) -> Iterator[tuple[str, Any]]:
    """The rows of a list, each with how errors name it."""
    rows = document.get(table)
    if not isinstance(rows, list):
        raise DataInvalid(f'{where} is not a COCO file: it needs a list "{table}"')
    for place, row in enumerate(rows):
        number = row.get("id") if isinstance(row, dict) else None
        shown = f"id {number}" if _is_id(number) else f"number {place + 1}"
        if not isinstance(row, dict):
            raise DataInvalid(f"{where}: {table}, {shown}: must be a JSON object")
        yield f"{where}: {table}, {shown}", row


def _categories(document: Mapping[str, Any], where: str) -> dict[int, str]:
    """Names by id."""
    names: dict[int, str] = {}
    taken: set[str] = set()
    for shown, row in _rows(document, "categories", where):
        number, name = row.get("id"), row.get("name")
        if not _is_id(number) or not isinstance(name, str):
            raise DataInvalid(f"{shown}: needs a whole number id and a text name")
        if number in names or name in taken:
            raise DataInvalid(f"{shown}: the id or the name stands in the list twice")
        names[number] = name
        taken.add(name)
    return names


def _files(
    document: Mapping[str, Any],
    where: str,
    folder: str,
    categories: Mapping[int, str],
    classes: tuple[str, ...],
) -> list[BoxedFile]:
    """The images in the order of the file, each with its boxes of the recipe's classes."""
    images = _images(document, where, folder)
    labels = {number: classes.index(name) for number, name in categories.items() if name in classes}
    boxes: dict[int, list[tuple[float, ...]]] = {number: [] for number in images}
    for shown, row in _rows(document, "annotations", where):
        image, category = row.get("image_id"), row.get("category_id")
        if not _is_id(image) or image not in images:
            raise DataInvalid(f"{shown}: its image_id is not among the images")
        if not _is_id(category) or category not in categories:
            raise DataInvalid(f"{shown}: its category_id is not among the categories")
        file, is_crowd = images[image], row.get("iscrowd", 0) not in (0, False)
        try:
            box = clip_box(_corners(row.get("bbox")), file.width, file.height)
        except ValueError as error:
            if is_crowd:
                continue  # nobody learns from it: no reason to refuse the whole set
            raise DataInvalid(f"{shown}: {error}") from error
        if box is not None and category in labels:
            label = labels[category]
            boxes[image].append((float(ignored_label(label) if is_crowd else label), *box))
    return [
        BoxedFile(
            file.path, file.width, file.height, np.array(boxes[image], np.float32).reshape(-1, 5)
        )
        for image, file in images.items()
    ]


def _images(document: Mapping[str, Any], where: str, folder: str) -> dict[int, BoxedFile]:
    """By id, still without boxes."""
    images: dict[int, BoxedFile] = {}
    none = np.empty((0, 5), np.float32)
    for shown, row in _rows(document, "images", where):
        number = row.get("id")
        if not _is_id(number) or number in images:
            raise DataInvalid(f"{shown}: needs an id of its own, a whole number")
        try:
            width, height = check_size(row.get("width"), row.get("height"))
            path = relative_path(folder, row.get("file_name"))
        except ValueError as error:
            raise DataInvalid(f"{shown}: {error}") from error
        images[number] = BoxedFile(path, width, height, none)
    return images


def _corners(bbox: object) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of COCO's left, top, width, height."""
    # bool is an int for Python, not for COCO.
    if (
        not isinstance(bbox, list)
        or len(bbox) != 4
        or not all(type(value) in (int, float) and abs(value) < 1e9 for value in bbox)
    ):
        raise ValueError("bbox must be four numbers of pixels: left, top, width, height")
    left, top, width, height = map(float, bbox)
    if width < 0 or height < 0:
        raise ValueError("bbox has a width or height below 0")
    return left, top, left + width, top + height


def _is_id(value: object) -> bool:
    # A file can hold numbers of thousands of digits, which str() refuses to write.
    return type(value) is int and abs(value) < 2**63


COCO: DatasetSource = Coco()
