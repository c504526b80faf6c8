"""Arrays come back from a file as they were, and nobody's changes reach anybody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedfleet.sim.array_files import map_arrays, shared_folder, write_arrays
from fedfleet.types import Array

LARGE = (1 << 20) // 8  # eight-byte elements of a file that is mapped, not read
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


@pytest.mark.parametrize("length", [0, 1, LARGE - 1, LARGE, LARGE + 1])
def test_arrays_come_back_whether_read_or_mapped(length: int, tmp_path: Path) -> None:
    values = np.arange(length, dtype=np.int64)

    write_arrays(tmp_path / "file", {"n": np.array(7), "a": values, "none": np.zeros((0, 3))})

    found = map_arrays(tmp_path / "file")
    assert (found["a"] == values).all()
    assert found["n"] == 7
    assert (found["n"].shape, found["none"].shape) == ((), (0, 3))


@pytest.mark.parametrize("length", [5000, LARGE])
def test_map_arrays_keeps_changes_to_itself(length: int, tmp_path: Path) -> None:
    write_arrays(tmp_path / "file", {"a": np.zeros(length)})
    mine = map_arrays(tmp_path / "file")["a"]

    mine += 1

    assert not map_arrays(tmp_path / "file")["a"].any()


@pytest.mark.parametrize("length", [5000, LARGE])
def test_map_arrays_outlives_the_file(length: int, tmp_path: Path) -> None:
    write_arrays(tmp_path / "file", {"a": np.arange(length)})
    mine = map_arrays(tmp_path / "file")["a"]

    (tmp_path / "file").unlink()

    assert mine.sum() == sum(range(length))


def test_map_arrays_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        map_arrays(tmp_path / "file")


# Many more than the files that the process may open.
HOLD_MANY = """
import resource, sys
from pathlib import Path
from fedfleet.sim.array_files import map_arrays
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
held = [map_arrays(Path(path))["a"] for path in sys.argv[1:] for _ in range(200)]
print(sum(int(array[-1]) for array in held))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit to lower")
def test_held_arrays_hold_no_open_files(tmp_path: Path) -> None:
    for name, length in (("small", 5000), ("large", LARGE)):
        write_arrays(tmp_path / name, {"a": np.ones(length)})
    paths = [str(tmp_path / name) for name in ("small", "large")]

    command = [sys.executable, "-c", HOLD_MANY, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "400"
