"""What a driver knows of the machine that it drives, and which one a recipe asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fedfleet.algorithms.catalog import make_algorithm
from fedfleet.rounds.actions import Action, FinishRun, Work
from fedfleet.rounds.asynchronous import AsynchronousMachine
from fedfleet.rounds.events import Event
from fedfleet.rounds.machine import Phase, RoundMachine, Slot
from fedfleet.rounds.recipe import Recipe


class Machine(Protocol):
    """One run: events in, actions out. Each member is told of in the two that there are."""

    @property
    def phase(self) -> Phase: ...
    @property
    def round(self) -> int: ...
    @property
    def slots(self) -> Mapping[str, Slot]: ...
    @property
    def finish(self) -> FinishRun | None: ...
    @property
    def attempt(self) -> int: ...
    @property
    def put_off_for(self) -> int: ...
    @property
    def cohort(self) -> tuple[str, ...]: ...
    @property
    def durations_s(self) -> Mapping[str, float]: ...
    @property
    def counting_round(self) -> int: ...
    @property
    def open_rounds(self) -> frozenset[int]: ...

    def handle(self, event: Event) -> list[Action]: ...
    def is_open(self, assignment_id: str, work: Work | None = None) -> bool: ...
    def open(self, work: Work) -> tuple[str, ...]: ...
    def done(self, work: Work) -> tuple[str, ...]: ...
    def place(self, assignment_id: str) -> tuple[str, tuple[str, ...]]: ...
    def round_of(self, assignment_id: str) -> int: ...
    def counting_rounds(self, round: int) -> range: ...
    def staleness(self, assignment_id: str) -> int: ...


def make_machine(
    run_id: str, recipe: Recipe, first_round: int = 1, *, queries: bool = False
) -> Machine:
    """The machine of a run.

    Args:
        first_round: what a replay may begin with. Where assignments outlive rounds it is the
            machine's own round, the first of the run, whatever is asked for here.
        queries: as for ``RoundMachine``; never of an asynchronous run.
    """
    asynchrony = make_algorithm(recipe.algorithm).asynchrony
    if asynchrony is None:
        return RoundMachine(run_id, recipe.rounds, recipe.evaluation, first_round, queries=queries)
    return AsynchronousMachine(run_id, recipe.rounds, recipe.evaluation, asynchrony)
