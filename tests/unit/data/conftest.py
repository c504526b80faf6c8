from __future__ import annotations

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[3]


@pytest.fixture
def real_data() -> Path:
    """The folder of real data that lies beside the project."""
    folder = Path(os.environ.get("FEDFLEET_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "cifar100").is_dir():
        pytest.skip(f"no real CIFAR in {folder}: set FEDFLEET_TEST_DATA to a folder with cifar100/")
    return folder


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """Encodes pixels (H, W) or (H, W, 3) as an image file."""

    def make(pixels: np.ndarray, format: str = "PNG", **options: object) -> bytes:
        data = BytesIO()
        Image.fromarray(pixels).save(data, format, **options)
        return data.getvalue()

    return make
