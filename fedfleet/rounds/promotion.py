"""Which versions are good enough to go to work: the recipe's ``[promote]`` gates.

Pure: what is known of two versions goes in, a verdict with its reasons comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedfleet.types import ALIAS_RULE, MAP50, Evaluation, is_alias

_EDGE = 1e-9  # 0.905 - 0.9 is a little more than 0.005
SHOWN_CLASSES = 20  # of the classes, the worst: a verdict is journalled in every round


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotionConfig:
    """The gates before an alias moves to a round's version.

    A version is measured by its accuracy on the coordinator's test split, a detector by its mean
    average precision at an overlap of 0.5; a class by its share of right answers, or its own
    average precision. The version that the alias names is measured on the same examples.

    Args:
        alias: what moves; the alias ``previous`` is left where it was before.
        least: a version below this is never promoted, in [0, 1].
        max_drop: how far the measure may lie below that of the version that the alias names.
        max_class_drop: the same for each class.
        min_class_samples: classes with fewer examples are not compared: chance would decide.
    """

    alias: str = "production"
    least: float = 0.0
    max_drop: float = 0.005
    max_class_drop: float = 0.05
    min_class_samples: int = 20

    def __post_init__(self) -> None:
        if not is_alias(self.alias):
            raise ValueError(f'alias = "{self.alias[:80]}": must be {ALIAS_RULE}')
        if self.alias in ("latest", "previous"):
            raise ValueError(f'alias = "{self.alias}": moves by itself; choose another name')
        for name in ("least", "max_drop", "max_class_drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be from 0 to 1")
        if self.min_class_samples < 1:
            raise ValueError(f"min_class_samples = {self.min_class_samples}: must be 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """One gate and how a version stood before it.

    Args:
        found, allowed: the number that was measured, and the least that passes; None where the
            gate asks yes or no.
    """

    name: str
    is_passed: bool
    found: float | None = None
    allowed: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if self.found is None or self.allowed is None:
            return self.name
        return f"{self.name} is {self.found:.4g}, {self.allowed:.4g} or more passes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """All gates of a version.

    Args:
        classes: a gate for each class that was compared.
    """

    gates: tuple[Gate, ...]
    classes: tuple[Gate, ...] = ()

    @property
    def is_passed(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[Gate, ...]:
        return tuple(gate for gate in (*self.gates, *self.classes) if not gate.is_passed)

    @property
    def reason(self) -> str:
        """Which gates failed, the worst classes of many; empty where none did."""
        failed = [str(gate) for gate in self.gates if not gate.is_passed]
        classes = [gate for gate in self._by_margin() if not gate.is_passed]
        failed += [str(gate) for gate in classes[:SHOWN_CLASSES]]
        more = len(classes) - SHOWN_CLASSES
        return "; ".join([*failed, f"and {more} more classes"] if more > 0 else failed)

    def to_json(self) -> dict[str, Any]:
        """Plain values: of many classes only the worst, and how many were compared and failed."""
        shown = self._by_margin()[:SHOWN_CLASSES]
        return {
            "gates": [gate.to_json() for gate in (*self.gates, *shown)],
            "classes": len(self.classes),
            "classes_failed": sum(not gate.is_passed for gate in self.classes),
        }

    def _by_margin(self) -> list[Gate]:
        return sorted(self.classes, key=lambda gate: (gate.found or 0.0) - (gate.allowed or 0.0))


def judge(
    config: PromotionConfig,
    candidate: Evaluation,
    current: Evaluation | None,
    *,
    classes: Sequence[str],
    is_finite: bool,
) -> Verdict:
    """Hold a version to the gates.

    Args:
        current: of the version that the alias names, on the same examples; None where there is
            none, and only ``least`` and finite answers are asked for.
        is_finite: whether the version's answers to the golden batch are finite numbers.
    """
    found = measure_of(candidate)
    gates = [
        Gate(name="finite answers to the golden batch", is_passed=is_finite),
        _at_least("the measure", found, config.least),
        Gate(name="measured on examples", is_passed=candidate.samples > 0),
    ]
    by_class: list[Gate] = []
    if current is not None and is_measured_alike(candidate, current):
        gates.append(
            _at_least(
                "the measure against the current version",
                found,
                measure_of(current) - config.max_drop,
            )
        )
        before, after = class_measures(current, classes), class_measures(candidate, classes)
        by_class = [
            _at_least(f"class {name}", after[name], before[name] - config.max_class_drop)
            for name, samples in zip(classes, candidate.class_samples, strict=True)
            if samples >= config.min_class_samples and name in before and name in after
        ]
    elif current is not None:
        gates.append(Gate(name="measured as the current version is", is_passed=False))
    return Verdict(gates=tuple(gates), classes=tuple(by_class))


def is_measured_alike(one: Evaluation, other: Evaluation) -> bool:
    """Whether two measures may be compared: a precision says nothing beside a share of hits."""
    return (MAP50 in one.scores) == (MAP50 in other.scores)


def _at_least(name: str, found: float, allowed: float) -> Gate:
    allowed = max(0.0, allowed)
    return Gate(name=name, is_passed=found >= allowed - _EDGE, found=found, allowed=allowed)


def measure_of(evaluation: Evaluation) -> float:
    """What a version is measured by, in [0, 1]; 0 where nothing was measured."""
    if MAP50 in evaluation.scores:
        return evaluation.scores[MAP50]
    return evaluation.accuracy if evaluation.samples else 0.0


def class_measures(evaluation: Evaluation, classes: Sequence[str]) -> Mapping[str, float]:
    """What each class is measured by, in [0, 1]; classes without an example are left out."""
    if MAP50 in evaluation.scores:
        scores = {name: evaluation.class_score(name) for name in classes}
        return {name: score for name, score in scores.items() if score is not None}
    counts = zip(classes, evaluation.class_correct, evaluation.class_samples, strict=True)
    return {name: correct / samples for name, correct, samples in counts if samples}
