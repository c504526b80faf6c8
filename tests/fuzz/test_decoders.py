"""A bounded run of the fuzzer; longer ones are for whoever changes a decoder."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

TARGET = Path(__file__).with_name("fuzz_decoders.py")


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris, the fuzzer, has no wheel for this platform or Python",
)
def test_decoders_answer_every_input_with_a_value_or_our_error() -> None:
    command = [sys.executable, str(TARGET), "-runs=20000", "-max_total_time=15", "-seed=1"]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs, done.stderr[-3000:]
    assert int(runs[1]) > 1000  # more than the corpus that it begins with
