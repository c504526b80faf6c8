"""What follows a committed version: the recipe's gates, the alias, and old versions' retirement."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fedfleet.errors import (
    ChecksumMismatch,
    Conflict,
    DataInvalid,
    NotFound,
    RecipeInvalid,
    SchemaMismatch,
    TrainingFailed,
    UnknownModel,
)
from fedfleet.models.card import ModelCard
from fedfleet.rounds.promotion import PromotionConfig, Verdict, judge
from fedfleet.rounds.recipe import Recipe
from fedfleet.store.protocols import AliasRecord, Entry, VersionRecord
from fedfleet.training.measuring import is_finite_on_golden
from fedfleet.types import Evaluation, ModelState
from fedfleet.wire.weights import decode_state
from fedfleet_coordinator.surroundings import Surroundings
from fedfleet_coordinator.workshop import Workshop

logger = logging.getLogger(__name__)

PREVIOUS = "previous"
JUDGED = "version_judged"
ACTOR = "coordinator/gates"
# Why the version that the alias names cannot be measured here: nothing that waiting would mend.
_INCOMPARABLE = (
    ChecksumMismatch,
    DataInvalid,
    NotFound,
    RecipeInvalid,
    SchemaMismatch,
    TrainingFailed,
    UnknownModel,
)

# A version's card and state to how it does on the run's test examples, None where there are none.
Measure = Callable[[ModelCard, ModelState], "Evaluation | None"]


@dataclass(frozen=True)
class _Case:
    """A version that is to be judged.

    Args:
        alias: that would move, as it was read; None where it does not exist.
        current: what it names; None where nothing is to be compared.
    """

    version: VersionRecord
    alias: AliasRecord | None
    current: VersionRecord | None


class Promoter:
    """Judges each version of a run that was evaluated, once, whatever is restarted in between."""

    def __init__(self, run_id: str, recipe: Recipe, around: Surroundings) -> None:
        self._run_id = run_id
        self._model = recipe.name
        self._config = recipe.promote
        self._around = around
        self._store, self._executors = around.store, around.executors

    async def settle(self, round: int, workshop: Workshop) -> None:
        """Judge what a round committed, then let old versions make room."""
        if self._config is not None:
            await self._judge_round(self._config, round, workshop.measure)
        newest, needed = workshop.base.number, workshop.needed
        if newest is not None:
            retire = self._around.retention.after_commit
            await self._executors.io(lambda: retire(self._model, newest, needed))

    async def _judge_round(self, config: PromotionConfig, round: int, measure: Measure) -> None:
        """Move the alias if the round's version passes.

        Args:
            measure: evaluates another run's version on this run's examples; keeps a core busy.
        """
        case = await self._executors.io(lambda: self._case(config, round))
        if case is None:
            return
        verdict, reason = await self._executors.compute(lambda: self._judge(config, case, measure))
        has_passed = verdict.is_passed and not reason
        if has_passed:
            try:
                await self._promote(config, case)
            except Conflict as error:
                has_passed, reason = False, error.message
        fields = {
            "version": case.version.number,
            "alias": config.alias,
            "promoted": has_passed,
            "gates": [gate.to_json() for gate in verdict.gates],
            "against": case.current.number if case.current else None,
            "reason": reason or "; ".join(str(gate) for gate in verdict.failed),
        }
        await self._executors.io(lambda: self._note(case.version, fields))
        self._around.changed()

    def _case(self, config: PromotionConfig, round: int) -> _Case | None:
        registry, model = self._store.registry, self._model
        newest = registry.newest_number(model)
        version = registry.version(model, newest) if newest else None
        if version is None or (version.run_id, version.round) != (self._run_id, round):
            return None
        if not version.metrics.get("evaluation"):
            return None
        entries = self._store.journal.entries(self._run_id)
        if any(e.kind == JUDGED and e.fields["version"] == version.number for e in entries):
            return None
        alias = registry.aliases(model).get(config.alias)
        current = registry.version(model, alias.number) if alias else None
        return _Case(version, alias, current)

    def _judge(self, config: PromotionConfig, case: _Case, measure: Measure) -> tuple[Verdict, str]:
        """The verdict, and why no comparison was possible, empty where it was or need not be."""
        card = ModelCard.from_json(case.version.card)
        candidate = Evaluation.from_json(case.version.metrics["evaluation"])
        current, reason = None, ""
        if case.current is not None:
            try:
                current = self._evaluation_of(case.current, card, measure)
            except _INCOMPARABLE as error:
                reason = (
                    f"version {case.current.number}, which {config.alias!r} names, cannot be "
                    f"measured on this run's examples ({error.code}): promote one by hand"
                )
        verdict = judge(
            config,
            candidate,
            current,
            classes=card.classes,
            is_finite=is_finite_on_golden(card, self._state_of(case.version)),
        )
        return verdict, reason

    def _evaluation_of(
        self, version: VersionRecord, card: ModelCard, measure: Measure
    ) -> Evaluation:
        """How the version that the alias names does on the same examples as this run's.

        What its record says holds where this run made it; the examples of another may be others.
        """
        noted = version.metrics.get("evaluation")
        if version.run_id == self._run_id and noted:
            return Evaluation.from_json(noted)
        own = ModelCard.from_json(version.card)
        if own.classes != card.classes:
            raise DataInvalid("it has other classes")
        found = measure(own, self._state_of(version))
        if found is None:
            raise DataInvalid("there are no examples here")
        return found

    def _state_of(self, version: VersionRecord) -> ModelState:
        return decode_state(version.schema, self._store.blobs.read(version.digest))

    async def _promote(self, config: PromotionConfig, case: _Case) -> None:
        """Move the alias, if nobody has moved it since it was read; and ``previous`` with it."""
        version, alias = case.version, case.alias
        if alias is not None and alias.number == version.number:
            return

        async def move() -> None:
            await self._executors.io(lambda: self._move(config, case))

        await self._around.trail.act(
            "promote",
            f"{version.model}@{config.alias}",
            move,
            actor=ACTOR,
            version=version.number,
            run_id=self._run_id,
        )

    def _move(self, config: PromotionConfig, case: _Case) -> None:
        registry, model = self._store.registry, case.version.model
        revision = case.alias.revision if case.alias else 0
        registry.set_alias(model, config.alias, case.version.number, revision)
        if case.alias is not None:
            with suppress(Conflict):  # retired meanwhile: there is no way back to it
                registry.set_alias(model, PREVIOUS, case.alias.number)

    def _note(self, version: VersionRecord, fields: Mapping[str, Any]) -> None:
        """Journal the verdict: who asks why a version is not at work finds it in the run."""
        entry = Entry(
            run_id=self._run_id,
            round=version.round,
            at_s=time.time(),
            kind=JUDGED,
            fields=fields,
        )
        self._store.journal.append(entry)
        said = {name: fields[name] for name in ("version", "promoted", "reason")}
        logger.info("version_judged", extra={"model": version.model, **said})
