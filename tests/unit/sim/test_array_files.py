"""Arrays come back from a file as they were, and nobody's changes reach anybody else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedfleet.sim.array_files import map_arrays, shared_folder, write_arrays
from fedfleet.types import Array

DTYPES = st.sampled_from(["float32", "float64", "int64", "uint8", "bool"])
ARRAYS = DTYPES.flatmap(
    lambda name: hnp.arrays(name, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


@given(arrays=st.dictionaries(st.text(max_size=20), ARRAYS, max_size=4))
def test_arrays_come_back_as_they_were(arrays: dict[str, Array]) -> None:
    with shared_folder() as folder:
        write_arrays(Path(folder) / "file", arrays)

        found = map_arrays(Path(folder) / "file")

    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_arrays_that_lie_across_memory_are_written_in_order(tmp_path: Path) -> None:
    array = np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1)

    write_arrays(tmp_path / "file", {"a": array})

    assert (map_arrays(tmp_path / "file")["a"] == array).all()


def test_map_arrays_keeps_changes_to_itself(tmp_path: Path) -> None:
    write_arrays(tmp_path / "file", {"a": np.zeros(5000)})
    mine = map_arrays(tmp_path / "file")["a"]

    mine += 1

    assert not map_arrays(tmp_path / "file")["a"].any()


def test_map_arrays_outlives_the_file(tmp_path: Path) -> None:
    write_arrays(tmp_path / "file", {"a": np.arange(5000)})
    mine = map_arrays(tmp_path / "file")["a"]

    (tmp_path / "file").unlink()

    assert mine.sum() == sum(range(5000))
