"""What peers train and read, as plug-ins of FedFleet."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from peers.environment import HERE

MODULES = (HERE / "pfl" / "app" / "simple_cnn.py", HERE / "prepared.py")
ENTRY_POINTS = """
[fedfleet.models]
simple_cnn = simple_cnn:plugin
[fedfleet.datasets]
prepared = prepared:PREPARED
"""


def install_plugins(folder: Path) -> None:
    """Install them in a folder, for this process and those that it starts."""
    write_plugins(folder, MODULES, ENTRY_POINTS)


def write_plugins(folder: Path, modules: Sequence[Path], entry_points: str) -> None:
    """Install modules in a folder with entry points; as ``install_plugins``."""
    for module in modules:
        shutil.copy(module, folder)
    info = folder / "peers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: peers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = str(folder)
