import subprocess
import sys

import pytest

from fedfleet.training.allocator import keep_freed_memory

# Prints by how many bytes the process is larger after it has freed eight tensors of 16 MB.
CHILD = """
import sys
from pathlib import Path
import torch
from fedfleet.training.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
resident = lambda: 4096 * int(Path("/proc/self/statm").read_text().split()[1])
before = resident()
tensors = [torch.ones(4_000_000) for _ in range(8)]
del tensors
print(resident() - before)
"""


def resident_after_free(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, mode], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is Linux's")
def test_keep_freed_memory_keeps_that_of_large_tensors() -> None:
    assert resident_after_free("kept") > 100e6
    assert resident_after_free("given back") < 50e6


def test_keep_freed_memory_leaves_another_system_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")

    assert not keep_freed_memory()
