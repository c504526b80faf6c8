"""What a record says of its run beside the rounds: what ran where, and who held which data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedfleet.types import Json

OUTCOMES = ("running", "completed", "failed", "stopped", "interrupted")
_TEXTS = ("source", "run_id", "name", "outcome", "code", "reason", "commit")


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What ran, where, and how it ended.

    Args:
        source: ``simulated`` or ``deployed``.
        run_id: the coordinator's; the record's folder of a simulation.
        name: of the model in the registry.
        rounds: how many the recipe asks for.
        classes: the labels' names, in the order of the label numbers.
        started_at_s, ended_at_s: in seconds since the epoch; None where it has not ended.
        outcome: one of ``OUTCOMES``; a process that was killed leaves ``running``.
        code, reason: of the error that ended it, else empty.
        versions: of the packages that matter for the result.
        machine: that the simulation ran on; empty of a deployed run.
        commit: of the checkout, empty where it is not known.
        options: what the results of a simulation depend on beside the recipe, by the name of the
            option, where it is not the usual: ``data_dir``, ``devices`` (a digest of the
            profiles) and ``batch_workers``.
    """

    source: str
    run_id: str
    name: str
    seed: int
    rounds: int
    classes: tuple[str, ...]
    started_at_s: float | None
    ended_at_s: float | None = None
    outcome: str = "running"
    code: str = ""
    reason: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "classes": list(self.classes)}

    @classmethod
    def from_json(cls, value: Json) -> RunFacts:
        """Read what ``to_json`` gave; KeyError, TypeError or ValueError where it is not that."""
        if value["outcome"] not in OUTCOMES:
            raise ValueError(f"outcome {value['outcome']!r} is none of {', '.join(OUTCOMES)}")
        return cls(
            **{name: str(value[name]) for name in _TEXTS},
            seed=int(value["seed"]),
            rounds=int(value["rounds"]),
            classes=tuple(map(str, value["classes"])),
            started_at_s=_seconds(value["started_at_s"]),
            ended_at_s=_seconds(value["ended_at_s"]),
            versions=_texts(value["versions"]),
            machine=_texts(value["machine"]),
            # Earlier records have none.
            options=_texts(value.get("options", {})),
        )


@dataclass(frozen=True, kw_only=True)
class DataMap:
    """Who holds how many examples of which class.

    Args:
        title: the data set and how it is split.
        groups: the group of each class, where the classes come in groups.
        per_class: one row per worker, one column per class.
    """

    title: str
    groups: tuple[int, ...] | None
    per_class: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        groups = None if self.groups is None else list(self.groups)
        return {"title": self.title, "groups": groups, "per_class": list(map(list, self.per_class))}

    @classmethod
    def from_json(cls, value: Json) -> DataMap:
        groups = value["groups"]
        return cls(
            title=str(value["title"]),
            groups=None if groups is None else tuple(map(int, groups)),
            per_class=tuple(tuple(map(int, row)) for row in value["per_class"]),
        )


def _seconds(value: Any) -> float | None:
    return None if value is None else float(value)


def _texts(value: Json) -> dict[str, str]:
    return {str(name): str(text) for name, text in value.items()}
