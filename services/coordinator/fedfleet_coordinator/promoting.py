"""What follows a committed version: the recipe's gates, the alias, and old versions' retirement."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from fedfleet.errors import (
    Conflict,
    DataInvalid,
    FedFleetError,
    LeaseLost,
    StoreFull,
    StoreUnavailable,
)
from fedfleet.models.card import ModelCard
from fedfleet.rounds.promotion import PromotionConfig, Verdict, judge
from fedfleet.rounds.recipe import Recipe
from fedfleet.store.alias_history import PREVIOUS, AliasPaths, version_before
from fedfleet.store.protocols import AliasRecord, Entry, VersionRecord
from fedfleet.training.measuring import is_finite_on_golden
from fedfleet.types import MAP50, Evaluation, ModelState
from fedfleet.wire.weights import decode_state
from fedfleet_coordinator.surroundings import Surroundings
from fedfleet_coordinator.workshop import Workshop

logger = logging.getLogger(__name__)

JUDGED = "version_judged"
ACTOR = "coordinator/gates"
MOVED_SINCE = "it was promoted already, and the alias has been moved since"
NO_VERDICT = Verdict(gates=())
_MAX_REASON = 200  # characters of what another's card made an error say
# What is the store's fault is no version's: whoever drives the run next judges again.
_STORE_FAULTS = (StoreFull, StoreUnavailable, LeaseLost)

T = TypeVar("T")

# A version's card and state to how it does on the run's test examples, None where there are none.
Measure = Callable[[ModelCard, ModelState], "Evaluation | None"]


@dataclass(frozen=True)
class _Case:
    """A version that is to be judged.

    Args:
        alias: that would move, as it was read; None where it does not exist.
        current: what it names, or named before where it names this version already; None where
            nothing is to be compared.
        was_promoted: the alias named this version and was moved since: whoever did that knows
            more than the gates.
    """

    version: VersionRecord
    alias: AliasRecord | None
    current: VersionRecord | None
    was_promoted: bool = False


class Promoter:
    """Judges each version of a run that was evaluated, once, whatever is restarted in between."""

    def __init__(self, run_id: str, recipe: Recipe, around: Surroundings) -> None:
        self._run_id = run_id
        self._model = recipe.name
        self._config = recipe.promote
        self._around = around
        self._store, self._executors = around.store, around.executors
        self._judged = 0  # the highest number that was judged, or is being judged
        self._measured: dict[int, Evaluation] = {}  # the last one of another run, by its number
        self._paths = AliasPaths(self._store.registry)

    def resume(self, entries: Iterable[Entry]) -> None:
        """Take note of what was judged before a restart; ``entries`` are the run's."""
        numbers = (entry.fields["version"] for entry in entries if entry.kind == JUDGED)
        self._judged = max(numbers, default=0)

    async def settle(self, workshop: Workshop) -> None:
        """Judge the version that the run committed last, then let old versions make room."""
        newest, needed = workshop.base.number, workshop.needed
        if newest is None:
            return
        if self._config is not None and newest > self._judged:
            # What fails from here on ends the run, which settles once more, or is the store's
            # fault: then another driver takes over, with a promoter of its own.
            self._judged = newest
            await self._judge_version(self._config, newest, workshop.measure)
        retire = self._around.retention.after_commit
        await self._executors.io(lambda: retire(self._model, newest, needed))

    async def _judge_version(self, config: PromotionConfig, number: int, measure: Measure) -> None:
        """Move the alias if the version passes.

        Args:
            measure: evaluates another run's version on this run's examples; keeps a core busy.
        """
        case = await self._executors.io(lambda: self._case(config, number))
        if case is None:
            return
        if case.was_promoted:
            told, has_passed, reason = NO_VERDICT.to_json(), False, MOVED_SINCE
        else:
            verdict, reason = await self._executors.compute(
                lambda: self._judge(config, case, measure)
            )
            told, has_passed = verdict.to_json(), verdict.is_passed and not reason
            reason = reason or verdict.reason
        if has_passed:
            try:
                await self._promote(config, case)
            except Conflict as error:
                has_passed, reason = False, error.message
        fields = {
            "version": case.version.number,
            "alias": config.alias,
            "promoted": has_passed,
            **told,
            "against": case.current.number if case.current else None,
            "reason": reason,
        }
        await self._executors.io(lambda: self._note(case.version, fields))
        self._around.changed()

    def _case(self, config: PromotionConfig, number: int) -> _Case | None:
        registry, model = self._store.registry, self._model
        version = registry.version(model, number)
        if not version.metrics.get("evaluation"):
            return None
        alias = registry.aliases(model).get(config.alias)
        if alias is None:
            return _Case(version, None, None)
        if alias.number == number:  # it moved, and then something stopped us
            return _Case(version, alias, version_before(registry, model, config.alias))
        current = registry.version(model, alias.number)
        # After the alias was read: who moves it meanwhile raises its revision.
        was_promoted = self._paths.has_named(model, config.alias, number)
        return _Case(version, alias, current, was_promoted)

    def _judge(self, config: PromotionConfig, case: _Case, measure: Measure) -> tuple[Verdict, str]:
        """The verdict, and why it could not be reached, empty where it was."""
        version = case.version
        card = ModelCard.from_json(version.card)
        candidate = Evaluation.from_json(version.metrics["evaluation"])
        current, is_finite, reasons = None, False, list[str]()
        try:
            candidate = self._evaluation_of(version, card, measure)
            if case.current is not None:
                current = self._evaluation_of(case.current, card, measure)
        except DataInvalid as error:
            reasons.append(f"{error.message}: promote one by hand")
        try:
            is_finite = _tried(
                version,
                "cannot answer the golden batch",
                lambda: is_finite_on_golden(card, self._state_of(version)),
            )
        except DataInvalid as error:
            reasons.append(error.message)
        verdict = judge(config, candidate, current, classes=card.classes, is_finite=is_finite)
        return verdict, "; ".join(reasons)

    def _evaluation_of(
        self, version: VersionRecord, card: ModelCard, measure: Measure
    ) -> Evaluation:
        """How a version does on this run's examples, a detector's precision included.

        What its record says holds where this run made it; the examples of another may be others.

        Raises:
            DataInvalid: it cannot be told; the text names the version and why.
        """
        noted = version.metrics.get("evaluation")
        if version.run_id == self._run_id and noted:
            found = Evaluation.from_json(noted)
            if card.kind != "detection" or MAP50 in found.scores:
                return found
        if version.number not in self._measured:
            evaluation = _tried(
                version,
                "cannot be measured on this run's examples",
                lambda: self._measure(version, card, measure),
            )
            self._measured = {version.number: evaluation}
        return self._measured[version.number]

    def _measure(self, version: VersionRecord, card: ModelCard, measure: Measure) -> Evaluation:
        own = ModelCard.from_json(version.card)
        if (own.kind, own.classes) != (card.kind, card.classes):
            raise DataInvalid("it has other classes, or is of another kind")
        if (own.inputs.shape, own.inputs.vocabulary) != (card.inputs.shape, card.inputs.vocabulary):
            raise DataInvalid("it reads other inputs")
        found = measure(own, self._state_of(version))
        if found is None:
            raise DataInvalid("there are no examples here")
        return found

    def _state_of(self, version: VersionRecord) -> ModelState:
        return decode_state(version.schema, self._store.blobs.read(version.digest))

    async def _promote(self, config: PromotionConfig, case: _Case) -> None:
        """Move the alias, if nobody has moved it since it was read; and ``previous`` with it.

        Of the two the alias moves first: where it did and something stopped us, ``previous``
        follows now.
        """
        if case.alias is not None and case.alias.number == case.version.number:
            named = await self._executors.io(lambda: self._previous(case.version.model))
            if case.current is None or named == case.current.number:
                return
        before = case.current.number if case.current else None

        async def move() -> None:
            await self._executors.io(lambda: self._move(config, case))

        await self._around.trail.act(
            "promote",
            f"{case.version.model}@{config.alias}",
            move,
            actor=ACTOR,
            version=case.version.number,
            previous=before,
            run_id=self._run_id,
        )

    def _previous(self, model: str) -> int | None:
        found = self._store.registry.aliases(model).get(PREVIOUS)
        return found.number if found else None

    def _move(self, config: PromotionConfig, case: _Case) -> None:
        registry, version, alias = self._store.registry, case.version, case.alias
        if alias is None or alias.number != version.number:
            revision = alias.revision if alias else 0
            registry.set_alias(version.model, config.alias, version.number, revision)
        if case.current is not None:
            with suppress(Conflict):  # retired meanwhile: there is no way back to it
                registry.set_alias(version.model, PREVIOUS, case.current.number)

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


def _tried(version: VersionRecord, what: str, work: Callable[[], T]) -> T:
    """What comes of having a version's network at work here.

    Its card may be from elsewhere, its code a plug-in's, and the machine's memory too small: no
    fault of it may end the run.

    Args:
        what: says in the error what was tried.

    Raises:
        DataInvalid: it failed; the text names the version and why.
        StoreFull, StoreUnavailable, LeaseLost: the store's faults, as they are.
    """
    try:
        return work()
    except _STORE_FAULTS:
        raise
    except Exception as error:
        known = isinstance(error, FedFleetError)
        why = str(error)[:_MAX_REASON] if known else type(error).__name__
        logger.warning(
            "version_not_measured",
            exc_info=None if known else error,
            extra={"model": version.model, "version": version.number, "reason": why},
        )
        raise DataInvalid(f"version {version.number} {what} ({why})") from error
