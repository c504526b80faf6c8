"""Keeps the record of a run that is simulated here, whatever ends it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from fedfleet.cli.data import partition_title
from fedfleet.cli.provenance import commit, machine, package_versions
from fedfleet.data.shard import Shards
from fedfleet.data.summary import describe_partition
from fedfleet.errors import AlreadyExists, FedFleetError, SettingInvalid
from fedfleet.reports.facts import DataMap, RunFacts
from fedfleet.reports.record import Record, is_record, read_record
from fedfleet.reports.round_result import RoundResult
from fedfleet.reports.writer import RecordWriter
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import Recipe
from fedfleet.types import FloatVector, ModelState
from fedfleet.wire.weights import encode_state


class Recording:
    """The record of one simulation; without a writer it keeps nothing.

    Args:
        closed_at_s: when the rounds closed that an earlier process closed, by number.
    """

    def __init__(self, writer: RecordWriter | None, closed_at_s: Mapping[int, float]) -> None:
        self._writer = writer
        self._closed_at_s = closed_at_s

    def add(self, result: RoundResult) -> None:
        """Keep a round that has closed."""
        if self._writer is not None:
            at_s = self._closed_at_s.get(result.round, result.at_s)
            self._writer.add(replace(result, at_s=at_s))

    def finish(
        self,
        outcome: str,
        code: str = "",
        reason: str = "",
        state: ModelState | None = None,
        levels: Mapping[str, FloatVector] = MappingProxyType({}),
    ) -> None:
        """Keep how the run ended, and the last version where it completed.

        Args:
            state, levels: as in ``Simulation``.
        """
        if self._writer is not None:
            model = None
            if outcome == "completed" and state is not None:
                model = encode_state(state, levels)
            self._writer.finish(outcome, code, reason, model)


@contextmanager
def recording(
    folder: Path | None,
    recipe: Recipe,
    data_dir: Path | None,
    *,
    goes_on: bool,
    options: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Recording]:
    """Keep a record in a folder while the block runs; None keeps nothing.

    A run that was cut off is recorded anew where its record is.

    Args:
        goes_on: an earlier process's rounds are added again first, as they were; time goes on from
            where they ended.
        options: see ``RunFacts``.

    Raises:
        AlreadyExists: the folder holds the record of another recipe, or of a run that completed.
        SettingInvalid: the folder cannot be written to.
    """
    if folder is None:
        yield Recording(None, {})
        return
    kept = _open(folder.expanduser(), recipe, data_dir, goes_on, options)
    try:
        yield kept
    except FedFleetError as error:
        kept.finish("failed", error.code, error.message)
        raise
    except BaseException:  # Ctrl-C, or a reader of the output that went away
        kept.finish("interrupted")
        raise


def options_of(
    data_dir: Path | None, devices: Sequence[object] = (), batch_workers: int = 1
) -> dict[str, str]:
    """What results depend on beside the recipe (see ``RunFacts``).

    Args:
        devices: the profiles, whose ``repr`` tells them apart.
    """
    options = {}
    if data_dir is not None:
        options["data_dir"] = str(data_dir.absolute())
    if devices:
        options["devices"] = hashlib.sha256(repr(tuple(devices)).encode()).hexdigest()[:12]
    if batch_workers > 1:
        options["batch_workers"] = str(batch_workers)
    return options


def _open(
    folder: Path,
    recipe: Recipe,
    data_dir: Path | None,
    goes_on: bool,
    options: Mapping[str, str],
) -> Recording:
    before = _cut_off(folder, recipe)
    started_at_s, closed_at_s = time.time(), dict[int, float]()
    rounds: list[RoundResult] = []
    if goes_on and before is not None:
        rounds = list(before.rounds)
        times = {item.round: item.at_s for item in before.rounds if item.at_s is not None}
        if times and before.facts.started_at_s is not None:
            # As if the process had not been away.
            away_s = started_at_s - max(times.values())
            started_at_s = before.facts.started_at_s + away_s
            closed_at_s = {number: at_s + away_s for number, at_s in times.items()}
            rounds = [replace(item, at_s=closed_at_s.get(item.round)) for item in rounds]
    facts = RunFacts(
        source="simulated",
        run_id=folder.absolute().name,
        name=recipe.name,
        seed=recipe.seed,
        rounds=recipe.rounds.rounds,
        classes=card_of(recipe).classes,
        started_at_s=started_at_s,
        versions=package_versions(),
        machine=machine(),
        commit=commit(),
        options=dict(options),
    )
    data = data_map(recipe, data_dir)
    try:
        replaces = before is not None
        writer = RecordWriter(folder, facts, recipe.source, data, replaces=replaces, before=rounds)
    except OSError as error:
        raise SettingInvalid(f"--out {folder}: {error.strerror}") from error
    return Recording(writer, closed_at_s)


def _cut_off(folder: Path, recipe: Recipe) -> Record | None:
    """The record in the folder, where it is of this recipe and did not complete."""
    if not is_record(folder):
        return None
    record = read_record(folder)
    if record.recipe != recipe.source or record.facts.outcome == "completed":
        raise AlreadyExists(f"--out {folder}: holds the record of a run; name another folder")
    return record


def data_map(recipe: Recipe, data_dir: Path | None) -> DataMap | None:
    """Who holds what, where the recipe splits a data set; raises what opening the data raises."""
    if recipe.data.workers is None:
        return None
    shards = Shards(recipe.data, seed=recipe.seed, data_dir=data_dir)
    spec = shards.spec
    rows = describe_partition(shards.train.labels, shards.indexes, spec.classes, shards.owners)
    return DataMap(
        title=partition_title(recipe, rows),
        groups=spec.groups,
        per_class=tuple(row.per_class for row in rows),
    )
