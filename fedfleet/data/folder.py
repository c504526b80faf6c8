"""``folder``: class folders of image files, which is what a real device has.

``DATA_DIR/train/CLASS/**`` and ``DATA_DIR/test/CLASS/**``. A device may hold only some of the
recipe's classes, never others. Files whose names begin with a dot, or end like no image, are left
out; everything else must be readable.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedfleet.data.catalog import DatasetSource, DatasetSpec, Split
from fedfleet.data.config import FolderOptions
from fedfleet.data.decode import decode_image, fit_pixels
from fedfleet.data.images import Index, LabeledImages, Labels, Pixels
from fedfleet.errors import DataEmpty, DataInvalid, DataMissing, ImageInvalid, ImageTooLarge
from fedfleet.tables import suggest
from fedfleet.types import InputSpec

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})

# The constants for photographs (ImageNet), whose range fits other images well enough.
COLOUR = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_GREY = ((0.449,), (0.226,))


@dataclass(frozen=True)
class Folder:
    """The data set; its classes are the recipe's, its images the device's."""

    def describe(self, options: FolderOptions) -> DatasetSpec:
        mean, std = _GREY if options.channels == 1 else COLOUR
        side = options.image_size
        inputs = InputSpec(channels=options.channels, height=side, width=side, mean=mean, std=std)
        return DatasetSpec(inputs, options.classes)

    def open(self, options: FolderOptions, split: Split, data_dir: Path | None) -> LabeledImages:
        """List a split's files; opens none of them."""
        if data_dir is None:
            raise DataMissing(
                "folder: set FEDFLEET_DATA_DIR (or --data-dir) to the folder that holds "
                "train/CLASS/ and test/CLASS/"
            )
        if not (data_dir / split).is_dir():
            raise DataMissing(f"the data folder holds no {split}/ with one folder per class")
        files, labels = _list(data_dir, split, options.classes)
        if not files:
            raise DataEmpty(f"{split}/ holds no image ({', '.join(sorted(SUFFIXES))})")
        return FolderImages(data_dir, files, labels, self.describe(options).inputs)


class FolderImages:
    """The files of one split.

    Args:
        files: relative to the root, in the order of the labels.
    """

    def __init__(self, root: Path, files: list[Path], labels: Labels, inputs: InputSpec) -> None:
        self._root = root
        self._files = files
        self._labels = labels
        self._inputs = inputs

    @property
    def labels(self) -> Labels:
        return self._labels

    def load(self, index: Index) -> Pixels:
        """Decode the files of an index, upright, scaled and cut to the input size.

        Raises:
            ImageTooLarge: more than 24 megapixels.
            DataInvalid: any other image that cannot be read. Both name the file.
        """
        spec = self._inputs
        images = np.empty((len(index), spec.channels, spec.height, spec.width), np.uint8)
        for place, row in enumerate(index):
            images[place] = self._decode(self._files[int(row)])
        return images

    def _decode(self, file: Path) -> Pixels:
        spec, shown = self._inputs, file.as_posix()
        try:
            data = (self._root / file).read_bytes()
            image = decode_image(data, side=max(spec.height, spec.width))
            return fit_pixels(image, channels=spec.channels, height=spec.height, width=spec.width)
        except ImageTooLarge as error:
            raise ImageTooLarge(f"{shown}: {error.message}") from error
        except ImageInvalid as error:
            raise DataInvalid(f"{shown}: {error.message}", detail=error.detail) from error
        except OSError as error:
            raise DataInvalid(f"{shown} cannot be read", detail=repr(error)) from error


def _list(root: Path, split: str, classes: tuple[str, ...]) -> tuple[list[Path], Labels]:
    """The image files of a split relative to the root, and their labels, class by class."""
    for entry in sorted((root / split).iterdir()):
        shown = f"{split}/{entry.name}"
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in classes:
            raise DataInvalid(f"{shown}/ is no class; {suggest(entry.name, list(classes))}")
        if _is_image(entry):
            raise DataInvalid(f"{shown} lies outside the class folders; move it into one")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = [path.relative_to(root) for path in (root / split / name).rglob("*")]
        # Sorted as text: the order must not depend on the file system or the platform.
        found = sorted(filter(lambda f: _is_image(root / f), found), key=Path.as_posix)
        files += found
        labels += [label] * len(found)
    return files, np.array(labels, dtype=np.int64)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()


FOLDER: DatasetSource = Folder()
