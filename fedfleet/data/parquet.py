"""Reads images and labels from Parquet files in the layout of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedfleet.data.decode import decode_image, fit_pixels
from fedfleet.data.images import Index, Labels, Pixels
from fedfleet.errors import DataInvalid, DataMissing, ImageInvalid, ImageTooLarge
from fedfleet.types import InputSpec

# Encoded images that stay in memory, for the shards of many workers have rows in each row group.
HELD_BYTES = 64 << 20
_PART = re.compile(r"-(\d+)-of-(\d+)\.parquet$")


class ParquetImages:
    """One split in the files ``SPLIT-00000-of-00002.parquet`` and so on.

    Args:
        folder: holds the files, itself or in one folder below it.
        image_column: a struct with the field ``bytes``, an image file.
        label_column: integers.
        inputs: the size that every image must have.

    Raises:
        DataMissing: there are no such files, or a part is missing.
        DataInvalid: a file is broken or has other columns.
    """

    def __init__(
        self, folder: Path, split: str, *, image_column: str, label_column: str, inputs: InputSpec
    ) -> None:
        self._root = folder.parent
        self._inputs = inputs
        self._image_column = image_column
        self._files = _parts(folder, split)
        labels, starts = [], [0]
        # (file, row group) of each run of rows; starts[g] is the first row of group g.
        self._groups: list[tuple[Path, int]] = []
        self._held: dict[tuple[Path, int], pa.ChunkedArray] = {}
        for path in self._files:
            try:
                file = pq.ParquetFile(path)
                column = file.read([label_column]).column(label_column)
                labels.append(column.cast(pa.int64()).to_numpy())
                _require_bytes(file.schema_arrow, image_column)
            except (pa.ArrowException, KeyError, OSError, ValueError) as error:
                raise DataInvalid(
                    f"{self._shown(path)} is not a Parquet file with the columns "
                    f"{image_column}.bytes and {label_column}",
                    detail=repr(error),
                ) from error
            for group in range(file.num_row_groups):
                self._groups.append((path, group))
                starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
        self._labels: Labels = np.concatenate(labels)
        self._starts = np.array(starts, dtype=np.int64)

    @property
    def labels(self) -> Labels:
        return self._labels

    def load(self, index: Index) -> Pixels:
        """Decode the rows of an index; reads each row group that holds one of them once."""
        spec = self._inputs
        images = np.empty((len(index), spec.channels, spec.height, spec.width), np.uint8)
        group_of = np.searchsorted(self._starts, index, side="right") - 1
        for group in np.unique(group_of):
            places = np.flatnonzero(group_of == group)
            rows = index[places] - self._starts[group]
            for place, data in zip(places, self._read(int(group), rows), strict=True):
                images[place] = self._decode(data, int(index[place]))
        return images

    def _read(self, group: int, rows: Index) -> Iterator[bytes | None]:
        path, number = self._groups[group]
        try:
            cells = self._column(path, number).take(pa.array(rows)).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataInvalid(f"{self._shown(path)} is damaged", detail=repr(error)) from error
        for cell in cells:
            yield cell["bytes"] if cell else None

    def _column(self, path: Path, number: int) -> pa.ChunkedArray:
        """The encoded images of a row group."""
        held = self._held.get((path, number))
        if held is None:
            table = pq.ParquetFile(path).read_row_group(number, [f"{self._image_column}.bytes"])
            held = table.column(self._image_column)
            if sum(column.nbytes for column in self._held.values()) + held.nbytes <= HELD_BYTES:
                self._held[path, number] = held
        return held

    def _decode(self, data: bytes | None, row: int) -> Pixels:
        spec = self._inputs
        try:
            image = decode_image(data or b"")
        except (ImageInvalid, ImageTooLarge) as error:
            raise DataInvalid(f"{self._row(row)}: {error.message}", detail=error.detail) from error
        if image.size != (spec.width, spec.height):
            raise DataInvalid(
                f"{self._row(row)} is an image of {image.width}x{image.height} pixels, "
                f"expected {spec.width}x{spec.height}"
            )
        return fit_pixels(image, channels=spec.channels, height=spec.height, width=spec.width)

    def _row(self, row: int) -> str:
        """A row, as errors name it."""
        return f"{self._shown(self._files[0].parent)}: row {row}"

    def _shown(self, path: Path) -> str:
        """A path below the data folder, as errors name it."""
        return path.relative_to(self._root).as_posix()


def _parts(folder: Path, split: str) -> list[Path]:
    """The files of a split in order, all of them."""
    pattern = f"{split}-*-of-*.parquet"
    found = sorted(folder.glob(pattern)) or sorted(folder.glob(f"*/{pattern}"))
    if not found:
        raise DataMissing(f"{folder.name}/ holds no file {pattern}")
    totals = {int(match[2]) for path in found if (match := _PART.search(path.name))}
    if totals != {len(found)}:
        raise DataMissing(
            f"{folder.name}/ holds {len(found)} files {pattern}, which say that they are parts of "
            f"{' and '.join(map(str, sorted(totals)))}; copy all parts of one set"
        )
    return found


def _require_bytes(schema: pa.Schema, image_column: str) -> None:
    kind = schema.field(image_column).type
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise ValueError(f"{image_column} is {kind}")
