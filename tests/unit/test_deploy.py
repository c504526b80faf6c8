"""What can be held of the deployment's files where no container engine runs."""

from __future__ import annotations

import re
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

SMOKE = Path(__file__).parents[2] / "deploy" / "smoke.sh"


def test_smoke_script_finds_an_image_that_was_not_trained_on() -> None:
    # What it has a container run; containers are not at hand in every run of this suite.
    snippets = re.findall(r"python -c '\n(.*?)'", SMOKE.read_text(), re.DOTALL)

    shown = subprocess.run(
        [sys.executable, "-c", snippets[0]], capture_output=True, text=True, timeout=60
    )

    assert shown.returncode == 0, shown.stderr
    label, png = shown.stdout.split()
    assert label in [str(digit) for digit in range(10)]
    assert b64decode(png).startswith(b"\x89PNG")
