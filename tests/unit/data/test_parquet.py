from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedfleet.data.parquet import ParquetImages
from fedfleet.errors import DataInvalid, DataMissing
from fedfleet.types import InputSpec

SPEC = InputSpec(channels=3, height=4, width=4, mean=(0.5,) * 3, std=(0.5,) * 3)
ROWS = np.arange(23 * 48, dtype=np.int64).reshape(23, 4, 4, 3).astype(np.uint8)


def open_images(folder: Path) -> ParquetImages:
    return ParquetImages(folder, "train", image_column="img", label_column="label", inputs=SPEC)


@pytest.fixture
def write(tmp_path, encode):
    """Writes rows of pixels (or bytes) into one part, in row groups of five."""

    def write(name: str, rows, labels, *, image: str = "img") -> Path:
        cells = [{"bytes": r if isinstance(r, bytes) else encode(r), "path": None} for r in rows]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({image: pa.array(cells, kind), "label": pa.array(labels, pa.int8())})
        folder = tmp_path / "set"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / name, row_group_size=5)
        return folder

    return write


@pytest.fixture
def two_parts(write) -> Path:
    write("train-00000-of-00002.parquet", ROWS[:12], list(range(12)))
    return write("train-00001-of-00002.parquet", ROWS[12:], list(range(12, 23)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(index=st.lists(st.integers(0, 22), max_size=30))
def test_parquet_loads_any_rows_in_the_order_asked(two_parts, index):
    images = open_images(two_parts)

    pixels = images.load(np.array(index, np.int64))

    assert images.labels.tolist() == list(range(23))
    assert images.labels.dtype == np.int64
    assert np.array_equal(pixels, ROWS[index].transpose(0, 3, 1, 2))


def test_parquet_decodes_only_the_rows_that_are_asked_for(write):
    folder = write("train-00000-of-00001.parquet", [ROWS[0], b"junk", ROWS[2]], [0, 1, 2])
    images = open_images(folder)

    assert images.load(np.array([0, 2])).shape == (2, 3, 4, 4)
    with pytest.raises(DataInvalid, match=r"^set: row 1: the bytes are not a readable image"):
        images.load(np.array([0, 1]))


def test_parquet_looks_one_folder_down_as_the_hub_lays_it_out(write):
    folder = write("plain_text/train-00000-of-00001.parquet", ROWS[:2], [0, 1])

    assert open_images(folder).labels.tolist() == [0, 1]


def test_parquet_with_a_part_missing_is_refused(two_parts):
    (two_parts / "train-00000-of-00002.parquet").unlink()

    with pytest.raises(DataMissing, match=r"holds 1 files .* parts of 2") as caught:
        open_images(two_parts)

    assert caught.value.code == "DATA_MISSING"


def test_parquet_of_another_split_is_missing(two_parts):
    with pytest.raises(DataMissing, match=r"set/ holds no file test-"):
        ParquetImages(two_parts, "test", image_column="img", label_column="label", inputs=SPEC)


def test_parquet_that_is_damaged_or_other_is_invalid(write, tmp_path):
    folder = write("train-00000-of-00001.parquet", ROWS[:2], [0, 1], image="picture")
    with pytest.raises(DataInvalid, match=r"set/train-00000-of-00001.parquet is not a Parquet"):
        open_images(folder)

    path = folder / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataInvalid, match="is not a Parquet file") as caught:
        open_images(folder)

    assert caught.value.code == "DATA_INVALID"
    assert str(tmp_path) not in caught.value.message


def test_parquet_image_of_another_size_is_invalid(write):
    folder = write("train-00000-of-00001.parquet", [np.zeros((5, 4, 3), np.uint8)], [0])

    with pytest.raises(DataInvalid, match="row 0 is an image of 4x5 pixels, expected 4x4"):
        open_images(folder).load(np.array([0]))
