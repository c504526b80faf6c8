"""Versions that were rolled back, until somebody points an alias at them anew."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedfleet.store.protocols import VersionRecord
from fedfleet_inference_api.following import Target

# Versions that are remembered; beyond them the one that was rolled back first is forgotten.
MOST_LEFT = 256

_Name = tuple[str, int, str]


@dataclass(frozen=True)
class _Left:
    """Why a version was left.

    Args:
        revisions: that the aliases of its model had then.
        allowed: aliases that were set to it anew since.
    """

    reason: str
    revisions: Mapping[str, int]
    allowed: set[str] = field(default_factory=set)


class RolledBack:
    """Which versions answer nobody any more; used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: OrderedDict[_Name, _Left] = OrderedDict()
        self._revisions: dict[str, dict[str, int]] = {}  # by model and alias, as last read

    def read(self, alias: str, target: Target) -> bool:
        """Take note of what an alias points at; whether that lets its version be tried again.

        Setting an alias, to the same version too, is how an operator says so; of that alias only.
        """
        with self._lock:
            self._revisions.setdefault(target.record.model, {})[alias] = target.revision
            left = self._left.get(_name(target.record))
            if (
                left is None
                or alias in left.allowed
                or left.revisions.get(alias) == target.revision
            ):
                return False
            left.allowed.add(alias)
            return True

    def add(self, record: VersionRecord, reason: str) -> None:
        with self._lock:
            revisions = dict(self._revisions.get(record.model, {}))
            self._left[_name(record)] = _Left(reason, revisions)
            if len(self._left) > MOST_LEFT:
                self._left.popitem(last=False)

    def holds(self, record: VersionRecord, alias: str) -> bool:
        """Whether a version answers nobody who follows an alias."""
        return bool(self.reason(record, alias))

    def reason(self, record: VersionRecord, alias: str) -> str:
        """Why it was rolled back; empty where it was not, or may be tried again."""
        with self._lock:
            left = self._left.get(_name(record))
            return left.reason if left is not None and alias not in left.allowed else ""


def _name(record: VersionRecord) -> _Name:
    return record.model, record.number, record.digest
