"""What changed between two versions: in their records, their scores, and their tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fedfleet.types import Array


@dataclass(frozen=True)
class FieldChange:
    """A field of the record that differs; a value that is not there is None. Any: it is JSON."""

    name: str
    a: Any
    b: Any

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class ScoreChange:
    """A number before and after; None where it was not measured.

    Args:
        samples: examples of the class in ``b``'s evaluation; None for what is over all classes.
    """

    name: str
    a: float | None
    b: float | None
    samples: int | None = None

    @property
    def change(self) -> float | None:
        return None if self.a is None or self.b is None else self.b - self.a

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "change": self.change}


@dataclass(frozen=True)
class TensorChange:
    """How far a tensor of ``b`` is from that of ``a``.

    Args:
        l2: Euclidean length of the difference.
        relative: that as a share of the length in ``a``; None where that is 0.
        cosine: of the angle between both; None where one has length 0.
        largest: largest change of an element.
    """

    name: str
    elements: int
    l2: float | None
    relative: float | None
    cosine: float | None
    largest: float | None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def field_changes(a: Mapping[str, Any], b: Mapping[str, Any], under: str = "") -> list[FieldChange]:
    """The fields that differ, those of tables one by one as ``table.field``."""
    found = []
    for name in dict.fromkeys((*a, *b)):
        one, other = a.get(name), b.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            found += field_changes(one, other, f"{under}{name}.")
        elif one != other:
            found.append(FieldChange(f"{under}{name}", one, other))
    return found


def score_changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[ScoreChange]:
    """Every score that one of them has."""
    return [
        ScoreChange(name, a.get(name), b.get(name))
        for name in dict.fromkeys((*a, *b))
        if a.get(name) is not None or b.get(name) is not None
    ]


def class_changes(
    classes_a: Sequence[str],
    a: Mapping[str, Any],
    classes_b: Sequence[str],
    b: Mapping[str, Any],
) -> list[ScoreChange]:
    """Each class's accuracy in two evaluations by its name, the largest changes first.

    Args:
        classes_a, classes_b: names in the order of each model's outputs.
        a, b: of ``Evaluation.to_json``; empty where nothing was measured.
    """
    before, after = _by_class(classes_a, a), _by_class(classes_b, b)
    samples = dict(zip(classes_b, b.get("class_samples", ()), strict=False))
    found = [
        ScoreChange(name, before.get(name), after.get(name), samples.get(name))
        for name in dict.fromkeys((*classes_b, *classes_a))
    ]
    measured = [one for one in found if one.a is not None or one.b is not None]
    return sorted(measured, key=lambda one: -abs(one.change or 0.0))


def tensor_changes(a: Mapping[str, Array], b: Mapping[str, Array]) -> list[TensorChange]:
    """Each tensor's distance, the largest relative ones first; then those that have no other."""
    found = []
    for name in dict.fromkeys((*a, *b)):
        one, other = a.get(name), b.get(name)
        if one is not None and other is not None and one.shape == other.shape:
            found.append(_distance(name, one, other))
            continue
        elements = next(array.size for array in (one, other) if array is not None)
        note = "of another shape" if one is not None and other is not None else "on one side only"
        found.append(TensorChange(name, elements, None, None, None, None, note))
    return sorted(found, key=lambda change: -(math.inf if _is_new(change) else _far(change)))


def _is_new(change: TensorChange) -> bool:
    """Whether a tensor that was 0 is not any more: its change is no share of what it was."""
    return change.relative is None and bool(change.l2)


def _far(change: TensorChange) -> float:
    return -1.0 if change.l2 is None else change.relative or 0.0


def _distance(name: str, one: Array, other: Array) -> TensorChange:
    a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    difference = b - a
    l2, length, lengths = (float(np.linalg.norm(v)) for v in (difference, a, b))
    both = length * lengths
    return TensorChange(
        name=name,
        elements=a.size,
        l2=l2,
        relative=l2 / length if length else None,
        # Rounding may lead a hair beyond 1.
        cosine=max(-1.0, min(1.0, float(a @ b) / both)) if both else None,
        largest=float(np.abs(difference).max()) if a.size else 0.0,
    )


def _by_class(classes: Sequence[str], evaluation: Mapping[str, Any]) -> dict[str, float | None]:
    correct, samples = (evaluation.get(f"class_{name}", ()) for name in ("correct", "samples"))
    columns = zip(classes, correct, samples, strict=False)
    return {name: right / count if count else None for name, right, count in columns}
