"""How good versions are, for tables: as the coordinator measured it, else as workers did.

A version's record is signed when it is committed, before workers evaluate it: what they measured is
in the run that made it, and the coordinator is asked for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from fedfleet.cli.model_arguments import evaluation_of, of_detector
from fedfleet.cli.output import percent
from fedfleet.cli.quality import ON_WORKERS
from fedfleet.errors import NotFound, RecipeInvalid
from fedfleet.reports.measures import PRECISION, hits_name
from fedfleet.rpc.control import ControlClient
from fedfleet.types import MAP50, Evaluation
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.evaluations import evaluation_from_message

# What workers measured together of a version, by model and number.
Pooled = Mapping[tuple[str, int], Evaluation]
# A column whose versions were measured in several ways; its cells say which.
QUALITY = "quality"


@dataclass(frozen=True)
class VersionQuality:
    """The quality of a version.

    Args:
        name: of the measure; empty where nothing was measured.
        value: in [0, 1].
        loss: None where it is not a number, or not known.
        hits: the share of right answers, and what that is called.
    """

    name: str = ""
    value: float | None = None
    loss: float | None = None
    hits: float | None = None
    hits_name: str = ""

    def told(self, column: str) -> str:
        """As a cell of a column."""
        return percent(self.value) if column == self.name or not self.name else self.words

    @property
    def words(self) -> str:
        return f"{percent(self.value)} {self.name}"


def pooled_evaluations(client: ControlClient, versions: Iterable[pb.Version]) -> Pooled:
    """What workers measured of those versions that the coordinator did not evaluate."""
    pooled: dict[tuple[str, int], Evaluation] = {}
    runs = {one.run_id: one.model for one in versions if one.run_id and not evaluation_of(one)}
    for run_id, model in runs.items():
        # Of another coordinator's store, or with a recipe of another release.
        with suppress(NotFound, RecipeInvalid):
            for summary in client.get_run(run_id).rounds:
                found = map(evaluation_from_message, summary.worker_evaluations.values())
                if counted := [one for one in found if one.samples]:
                    pooled[model, summary.version] = reduce(add, counted)
    return pooled


def quality_of(version: pb.Version, pooled: Pooled) -> VersionQuality:
    """The coordinator's evaluation of a version, else the workers' together."""
    own = evaluation_of(version)
    if own:
        return _quality(own, of_detector(version), "")
    by_workers = pooled.get((version.model, version.number))
    if by_workers is None:
        return VersionQuality()
    return _quality(by_workers.to_json(), of_detector(version), ON_WORKERS)


def _quality(evaluation: Mapping[str, Any], is_detector: bool, where: str) -> VersionQuality:
    hits, precision = evaluation.get("accuracy"), evaluation.get("scores", {}).get(MAP50)
    right = hits_name(of_detector=is_detector or precision is not None) + where
    name, value = (right, hits) if precision is None else (PRECISION + where, precision)
    return VersionQuality(name, value, evaluation.get("loss"), hits, right)


def column_of(found: Iterable[VersionQuality]) -> str:
    """What a column with these is called."""
    names = {one.name for one in found} - {""}
    return names.pop() if len(names) == 1 else QUALITY
