"""Makes ``import torchvision`` work beside a torch that its compiled library does not fit.

The registry's torchvision for Linux is compiled for CUDA. Beside a CPU-only torch its library
does not load, and its import then fails with "operator torchvision::nms does not exist", although
no classification network needs detection operators.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

# The operators for which torchvision registers shapes when it is imported, native or not.
_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def ensure_torchvision_ops() -> None:
    """Declare torchvision's missing operators; leave real ones, and a second call, alone.

    Must run before torchvision is imported. Declared operators have no implementation: calling
    one raises NotImplementedError.
    """
    if "torchvision" in sys.modules or sys.platform != "linux":
        return
    _load_native_operators()
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", _SIGNATURE)


def _load_native_operators() -> None:
    """Load torchvision's compiled library as its own import would, if that is possible.

    It has to come first: loaded after a declaration it would define the same operators again,
    which torch refuses. Loading it twice is harmless.
    """
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for suffix in EXTENSION_SUFFIXES:
            library = Path(folder) / f"_C{suffix}"
            if library.exists():
                with contextlib.suppress(OSError):  # does not fit this torch
                    torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
                return
