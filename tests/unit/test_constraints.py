"""constraints.txt holds the exact version of everything that the extras install."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
# What torch's wheels for CUDA bring; theirs to choose, exactly, for the torch that is pinned.
CUDA = ("cuda-", "nvidia-", "triton")


def _lines() -> list[Requirement]:
    text = (ROOT / "constraints.txt").read_text()
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line]


def _installed() -> dict[str, str]:
    """Every distribution that fedfleet[dev] needs on this machine, with its version."""
    found: dict[str, str] = {}
    visited: set[str] = set()
    pending = [("fedfleet", "dev")]
    while pending:
        name, extra = pending.pop()
        for text in distribution(name).requires or ():
            need = Requirement(text)
            if need.marker is not None and not need.marker.evaluate({"extra": extra}):
                continue
            own = canonicalize_name(need.name)
            if own.startswith(CUDA):
                continue
            if own != "fedfleet":
                found[own] = distribution(own).version
            for wanted in ("", *need.extras):
                if f"{own}[{wanted}]" not in visited:
                    visited.add(f"{own}[{wanted}]")
                    pending.append((own, wanted))
    return found


def test_constraints_name_one_exact_version_per_machine() -> None:
    for line in _lines():
        assert re.fullmatch(r"==[0-9][^,*]*", str(line.specifier)), str(line)
    here = [canonicalize_name(x.name) for x in _lines() if not x.marker or x.marker.evaluate()]
    assert len(here) == len(set(here))


def test_constraints_are_what_is_installed() -> None:
    pinned = {
        canonicalize_name(line.name): next(iter(line.specifier)).version
        for line in _lines()
        if line.marker is None or line.marker.evaluate()
    }

    # A build tag such as 2.13.0+cpu is the same release.
    found = {name: version.partition("+")[0] for name, version in _installed().items()}
    assert found == {name: pinned.get(name, "no line") for name in found}
