"""From a V2 tensor's numbers, written out in JSON or as bytes, to the pixels that a model sees.

Numbers are turned into pixels a chunk at a time, so that a tensor takes no more memory than its
pixels, and no thread waits long for its turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfleet.data.images import Pixels
from fedfleet.errors import InvalidInput

# Numbers that are converted in one go, in which no other thread has its turn.
_CHUNK = 65_536
UINT8, FP32 = "UINT8", "FP32"
DATATYPES = (UINT8, FP32)
# As binary data: little-endian, whatever this machine is.
_BINARY: Mapping[str, np.dtype[Any]] = {UINT8: np.dtype("u1"), FP32: np.dtype("<f4")}

Numbers = npt.NDArray[np.float64]
Shape = tuple[int, ...]


def binary_bytes(datatype: str, shape: Shape) -> int:
    """How long a tensor's binary data are."""
    return math.prod(shape) * _BINARY[datatype].itemsize


def pixels_from_binary(data: memoryview, datatype: str, shape: Shape) -> Pixels:
    """The pixels in binary data of the right length: row-major, without padding.

    Returns:
        uint8 of that shape; of UINT8 the data themselves, which nobody may write to.

    Raises:
        InvalidInput: FP32 that are no shares of full light.
    """
    numbers = np.frombuffer(data, _BINARY[datatype])
    if datatype == UINT8:
        return numbers.reshape(shape)
    starts = range(0, len(numbers), _CHUNK)
    return _pixels((_exact(numbers[start : start + _CHUNK]) for start in starts), datatype, shape)


def pixels_from_json(data: object, datatype: str, shape: Shape) -> Pixels:
    """The pixels in a list of numbers, flat or nested as the shape says.

    Raises:
        InvalidInput: another form, or numbers that are none of the datatype.
    """
    if not isinstance(data, list):
        raise InvalidInput("inputs[0].data: must be a list of numbers, flat or nested")
    is_nested = bool(data) and isinstance(data[0], list)
    rows = _rows(data, shape if is_nested else (math.prod(shape),))
    return _pixels(_chunks(chain.from_iterable(rows)), datatype, shape)


def _pixels(chunks: Iterable[Numbers], datatype: str, shape: Shape) -> Pixels:
    pixels = np.empty(math.prod(shape), np.uint8)
    start = 0
    for chunk in chunks:
        pixels[start : start + len(chunk)] = _OF[datatype](chunk)
        start += len(chunk)
    return pixels.reshape(shape)


def _exact(numbers: npt.NDArray[np.float32]) -> Numbers:
    """As the numbers that JSON has for them, so that both are rounded to the same pixels."""
    with np.errstate(invalid="ignore"):  # a NaN that signals is refused as any other
        return numbers.astype(np.float64)


def _chunks(leaves: Iterator[Any]) -> Iterator[Numbers]:
    """Any: whatever JSON holds."""
    while chunk := list(islice(leaves, _CHUNK)):
        if not {*map(type, chunk)} <= {int, float}:
            raise InvalidInput("inputs[0].data: must hold numbers and nothing else")
        try:
            yield np.fromiter(chunk, np.float64, len(chunk))
        except OverflowError as error:
            raise InvalidInput("inputs[0].data: holds a number that is too large") from error


def _rows(data: list[Any], shape: Shape) -> list[list[Any]]:
    """The innermost lists. Any: whatever JSON holds."""
    rows = [data]
    for depth, side in enumerate(shape):
        if not all(isinstance(row, list) and len(row) == side for row in rows):
            raise InvalidInput(f"inputs[0].data: must have {side} in each list of axis {depth}")
        if depth < len(shape) - 1:
            rows = [inner for row in rows for inner in row]
    return rows


def _of_shares(numbers: Numbers) -> Pixels:
    """To the nearest of 256 steps."""
    if not ((numbers >= 0) & (numbers <= 1)).all():
        raise InvalidInput("inputs[0].data: FP32 must be shares of full light, from 0 to 1")
    return np.rint(255 * numbers).astype(np.uint8)


def _of_bytes(numbers: Numbers) -> Pixels:
    if ((numbers >= 0) & (numbers <= 255)).all():  # what is no number fails, too
        pixels = numbers.astype(np.uint8)
        if (pixels == numbers).all():
            return pixels
    raise InvalidInput("inputs[0].data: UINT8 must be whole numbers from 0 to 255")


_OF: Mapping[str, Callable[[Numbers], Pixels]] = {UINT8: _of_bytes, FP32: _of_shares}
