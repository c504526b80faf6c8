"""A split of image files with boxes, whatever format the boxes were written in.

Legend: k = boxes of one image.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from fedfleet.data.boxes import label_of_largest, pad_boxes
from fedfleet.data.catalog import DatasetSpec
from fedfleet.data.decode import MAX_PIXELS, decode_image, squeeze_pixels
from fedfleet.data.folder import COLOUR
from fedfleet.data.images import Boxes, Index, Labels, Pixels
from fedfleet.errors import DataEmpty, DataInvalid, ImageInvalid, ImageTooLarge
from fedfleet.tables import printable
from fedfleet.types import InputSpec

# The arrays of a shard have as many rows for each image as the one with most boxes needs.
MAX_BOXES = 500
_MOST_SUGGESTED = 12


@dataclass(frozen=True, eq=False)
class BoxedFile:
    """An image file and its boxes.

    Args:
        path: relative to the data folder.
        width, height: in pixels, as the annotations say.
        boxes: float32, shape (k, 5), regions that are ignored among them.
    """

    path: PurePosixPath
    width: int
    height: int
    boxes: Boxes


class BoxedFiles:
    """The files of one split; opens none of them yet.

    Args:
        root: the data folder.
    """

    def __init__(self, root: Path, files: Sequence[BoxedFile], inputs: InputSpec) -> None:
        self._root = root
        self._files = files
        self._inputs = inputs
        # One by one: side by side they would all take the room of the image that has most.
        labels = [int(label_of_largest(file.boxes[np.newaxis])[0]) for file in files]
        self._labels: Labels = np.array(labels, dtype=np.int64)

    @property
    def labels(self) -> Labels:
        return self._labels

    def load(self, index: Index) -> Pixels:
        """Decode the files of an index, upright, each scaled to the input size as a whole.

        Raises:
            ImageTooLarge: more than 24 megapixels.
            DataInvalid: any other image that cannot be read, or is not of the size that the
                annotations say. Both name the file.
        """
        spec = self._inputs
        images = np.empty((len(index), spec.channels, spec.height, spec.width), np.uint8)
        for place, row in enumerate(index):
            images[place] = self._decode(self._files[int(row)])
        return images

    def load_boxes(self, index: Index) -> Boxes:
        return pad_boxes([self._files[int(row)].boxes for row in index])

    def _decode(self, file: BoxedFile) -> Pixels:
        spec, name = self._inputs, shown(file.path)
        try:
            image = decode_image((self._root / file.path).read_bytes())
            if image.size != (file.width, file.height):
                raise DataInvalid(
                    f"{name} has {image.width}x{image.height} pixels, its boxes were drawn on "
                    f"{file.width}x{file.height}"
                )
            return squeeze_pixels(
                image, channels=spec.channels, height=spec.height, width=spec.width
            )
        except ImageTooLarge as error:
            raise ImageTooLarge(f"{name}: {error.message}") from error
        except ImageInvalid as error:
            raise DataInvalid(f"{name}: {error.message}", detail=error.detail) from error
        except OSError as error:
            raise DataInvalid(f"{name} cannot be read", detail=repr(error)) from error


def boxed_spec(classes: tuple[str, ...], side: int) -> DatasetSpec:
    """What is known of colour photographs with boxes before they are read.

    Args:
        side: in pixels, that images are scaled to.
    """
    mean, std = COLOUR
    inputs = InputSpec(channels=3, height=side, width=side, mean=mean, std=std)
    return DatasetSpec(inputs, classes, kind="detection")


def open_files(
    root: Path, files: Sequence[BoxedFile], inputs: InputSpec, *, where: str, found: Collection[str]
) -> BoxedFiles:
    """Make a split of files, refusing one from which nothing can be learnt.

    Args:
        where: the file or folder that named them, for errors.
        found: the names of all classes that the annotations know.

    Raises:
        DataEmpty: no image, or no box of the recipe's classes.
        DataInvalid: an image has more than MAX_BOXES boxes.
    """
    if not files:
        raise DataEmpty(f"{where} names no image")
    for file in files:
        if len(file.boxes) > MAX_BOXES:
            raise DataInvalid(
                f"{where}: {shown(file.path)} has {len(file.boxes)} boxes, at most {MAX_BOXES} "
                "are read; cut the image into several"
            )
    if not any((file.boxes[:, 0] >= 0).any() for file in files):
        names = [printable(name) for name in sorted(found)]
        more = ", ..." if len(names) > _MOST_SUGGESTED else ""
        known = ", ".join(names[:_MOST_SUGGESTED]) + more
        raise DataEmpty(
            f"{where} holds no box of data.classes; its own classes are: {known or 'none'}"
        )
    return BoxedFiles(root, files, inputs)


def check_size(width: object, height: object) -> tuple[int, int]:
    """An image's size as annotations say it.

    Raises:
        ValueError: not whole numbers of 1 or more, or more pixels than are ever decoded.
    """
    if type(width) is not int or type(height) is not int or min(width, height) < 1:
        raise ValueError("width and height must be whole numbers of 1 or more")
    if width * height > MAX_PIXELS:
        raise ValueError(f"the image has more than {MAX_PIXELS // 1_000_000} megapixels")
    return width, height


def clip_box(
    corners: tuple[float, float, float, float], width: int, height: int
) -> tuple[float, float, float, float] | None:
    """The part of a box (left, top, right, bottom in pixels) that is in the image, as shares of
    its sides; None for a box without area, such as drawing tools leave behind.

    Raises:
        ValueError: not finite, right before left or bottom before top, or nowhere in the image.
    """
    left, top, right, bottom = corners
    if not all(map(math.isfinite, corners)):
        raise ValueError("the box must be of finite numbers")
    if right < left or bottom < top:
        raise ValueError("the box ends before it begins")
    if right < 0 or bottom < 0 or left > width or top > height:
        raise ValueError(f"the box lies outside the image of {width}x{height} pixels")
    # In float32 here, where the box still can be dropped: rounded later it could lose its area.
    shares = np.array([left / width, top / height, right / width, bottom / height], np.float32)
    left, top, right, bottom = shares.clip(0, 1).tolist()
    return (left, top, right, bottom) if left < right and top < bottom else None


def relative_path(folder: str, name: object) -> PurePosixPath:
    """Where an image that annotations name lies in the data folder.

    Raises:
        ValueError: no file name, or one that leads out of the folder.
    """
    if not isinstance(name, str) or not name or len(name) > 1000 or not name.isprintable():
        raise ValueError("file_name must be a printable text")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or set(name) & set("\\:") or not path.parts:
        raise ValueError(f"file_name {printable(name)!r} leads out of {folder}/")
    return PurePosixPath(folder) / path


def shown(path: PurePosixPath) -> str:
    """A path below the data folder, as errors name it."""
    return printable(path.as_posix())
