"""Turns one seed into independent streams, the same in every process and on every machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *labels: str | int) -> int:
    """Return the seed of the stream that the labels name, in [0, 2^63).

    SHA-256 over a JSON list: stable across processes (unlike ``hash``), and no two different
    sequences of labels share an encoding.
    """
    digest = hashlib.sha256(json.dumps([seed, *labels], separators=(",", ":")).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def torch_generator(seed: int) -> torch.Generator:
    """Return an own CPU generator; CPU on every device, so that draws do not depend on it."""
    return torch.Generator("cpu").manual_seed(seed)


# torch's generators are global to the process: a second thread would draw from the first's seed.
_generators = threading.RLock()


@contextmanager
def isolated_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators (dropout and initialisation draw from them), restore after.

    Only the CPU's generator and that of ``device`` are touched. One thread at a time; others wait.
    """
    is_cuda = device.type == "cuda"
    with _generators, torch.random.fork_rng(devices=[device] if is_cuda else []):
        # Not torch.manual_seed, which would also reseed accelerators that are not restored.
        torch.default_generator.manual_seed(seed)
        if is_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
