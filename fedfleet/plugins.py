"""Finds a user's own models and datasets among the installed packages' entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

MODELS = "fedfleet.models"
DATASETS = "fedfleet.datasets"


def names(group: str) -> tuple[str, ...]:
    """Names of the installed plug-ins of a group, in order; imports none of them."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def load(group: str, name: str) -> Any:
    """Import and return a plug-in's object. Any: the caller checks that it has what it needs.

    Raises:
        KeyError: no such plug-in.
    """
    for entry in entry_points(group=group):
        if entry.name == name:
            return entry.load()
    raise KeyError(name)
