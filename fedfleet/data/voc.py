"""``voc``: images and boxes in the folders of Pascal VOC (Everingham et al. 2010).

``Annotations/ID.xml``, ``JPEGImages/ID.jpg`` (or ``.jpeg``, ``.png``) and the lists of ids
``ImageSets/Main/{train,trainval,val,test}.txt``. An object marked as difficult is a region that is
ignored, in training and in evaluation: to find it counts neither for nor against a detector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

import numpy as np

from fedfleet.data.boxed_files import BoxedFile, boxed_spec, check_size, clip_box, open_files
from fedfleet.data.boxes import ignored_label
from fedfleet.data.catalog import DatasetSource, DatasetSpec, Split
from fedfleet.data.config import VocOptions
from fedfleet.data.images import BoxedImages
from fedfleet.data.plain_xml import MAX_XML_BYTES, parse_xml
from fedfleet.errors import DataInvalid, DataMissing
from fedfleet.tables import printable

SUFFIXES = (".jpg", ".jpeg", ".png")
_MAX_LIST_BYTES = 64 << 20
_LONGEST_ID = 200
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Voc:
    """The data set; its classes are the recipe's, its images the device's."""

    def describe(self, options: VocOptions) -> DatasetSpec:
        return boxed_spec(options.classes, options.image_size)

    def open(self, options: VocOptions, split: Split, data_dir: Path | None) -> BoxedImages:
        """Read a split's list and the annotations of its images; opens no image."""
        name = options.train if split == "train" else options.test
        where = f"ImageSets/Main/{name}.txt"
        if data_dir is None:
            raise DataMissing(
                "voc: set FEDFLEET_DATA_DIR (or --data-dir) to the folder that holds "
                f"Annotations/, JPEGImages/ and {where}"
            )
        if not (data_dir / where).is_file():
            raise DataMissing(f"the data folder holds no {where}")
        found: set[str] = set()
        files = [
            _file(data_dir, image, options.classes, found)
            for image in _ids(data_dir / where, where)
        ]
        inputs = self.describe(options).inputs
        return open_files(data_dir, files, inputs, where=where, found=found)


def _ids(path: Path, where: str) -> Iterator[str]:
    """The ids of a list, each once."""
    try:
        if path.stat().st_size > _MAX_LIST_BYTES:
            raise DataInvalid(f"{where} has more than {_MAX_LIST_BYTES >> 20} MiB; split it")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataInvalid(f"{where} cannot be read as text", detail=repr(error)) from error
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        # A list of one class has a second column: whether the image shows it.
        name = next(iter(line.split()), "")
        if not name:
            continue
        # The list may come from elsewhere: an id must not lead out of the data folder.
        is_plain = name.isprintable() and len(name) <= _LONGEST_ID
        if not is_plain or name.startswith(".") or set(name) & set("/\\:"):
            raise DataInvalid(f"{where}, line {number}: {printable(name)!r} is not an image's id")
        if name in seen:
            raise DataInvalid(f"{where}, line {number}: {name} stands in the list twice")
        seen.add(name)
        yield name


def _file(root: Path, name: str, classes: tuple[str, ...], found: set[str]) -> BoxedFile:
    """One image's annotations; adds the names of their classes to what was found."""
    where = f"Annotations/{name}.xml"
    try:
        with (root / where).open("rb") as file:
            document = parse_xml(file.read(MAX_XML_BYTES + 1))
        sides = (_whole(document.find(f"size/{side}")) for side in ("width", "height"))
        width, height = check_size(*sides)
        boxes = list(_boxes(document, classes, found, width, height))
    except FileNotFoundError as error:
        raise DataMissing(f"the data folder holds no {where}") from error
    except OSError as error:
        raise DataInvalid(f"{where} cannot be read", detail=repr(error)) from error
    except ValueError as error:
        raise DataInvalid(f"{where}: {error}") from error
    path = _image(root, name)
    return BoxedFile(path, width, height, np.array(boxes, np.float32).reshape(-1, 5))


def _boxes(
    document: Element, classes: tuple[str, ...], found: set[str], width: int, height: int
) -> Iterator[tuple[float, ...]]:
    """The boxes of the recipe's classes; errors name the object."""
    for number, item in enumerate(document.findall("object"), start=1):
        name = (item.findtext("name") or "").strip()
        shown = f"object {number} ({printable(name)})"
        if not name:
            raise ValueError(f"object {number} has no name")
        found.add(name)
        is_difficult = (item.findtext("difficult") or "0").strip() != "0"
        try:
            left, top, right, bottom = (_number(item, side) for side in _SIDES)
            # Pixels are counted from 1, and the last one is part of the box.
            box = clip_box((left - 1, top - 1, right, bottom), width, height)
        except ValueError as error:
            if is_difficult:
                continue  # nobody learns from it: no reason to refuse the whole set
            raise ValueError(f"{shown}: {error}") from error
        if name in classes and box is not None:
            label = classes.index(name)
            yield (float(ignored_label(label) if is_difficult else label), *box)


def _image(root: Path, name: str) -> PurePosixPath:
    places = [PurePosixPath("JPEGImages", name + suffix) for suffix in SUFFIXES]
    for place in places:
        if (root / place).is_file():
            return place
    raise DataMissing(f"the data folder holds no {places[0]}")


def _whole(element: Element | None) -> int | None:
    text = "" if element is None else (element.text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _number(item: Element, side: str) -> float:
    """A side of the object's own box; its parts have boxes too."""
    text = item.findtext(f"bndbox/{side}")
    if text is None:
        raise ValueError(f"its bndbox has no {side}")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{side} = {printable(text)!r} is not a number") from None


VOC: DatasetSource = Voc()
