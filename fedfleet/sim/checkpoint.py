"""What a simulated run needs to go on after it was cut off: a folder, brought up to date as each
round closes.

``checkpoint.json`` says which files belong to the last closed round. They are written before it is
replaced, under names that no other round uses, so a run that dies at any moment goes on with the
round before. ``rounds.jsonl`` has a line for each round, also for whoever wants to look.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedfleet.algorithms.plan import MAIN
from fedfleet.errors import DataInvalid, SchemaMismatch, SettingInvalid
from fedfleet.rounds.levels import FULL
from fedfleet.rounds.recipe import Recipe
from fedfleet.sim.coordinator import KeptCoordinator, memory_key
from fedfleet.sim.downlink import KeptDownlink
from fedfleet.sim.memories import Memories
from fedfleet.sim.outcome import SimulatedRound
from fedfleet.store.durable import sync_folder
from fedfleet.store.owner import hold_folder
from fedfleet.types import Evaluation, ModelState, Schema
from fedfleet.wire.level_statistics import read_level_statistics
from fedfleet.wire.weights import decode_arrays, decode_state, encode_arrays, encode_state

_INDEX, _ROUNDS = "checkpoint.json", "rounds.jsonl"
_FORMAT = 2
# What reading something else raises: also for JSON of another shape, and for deep lists.
_WRONG = (KeyError, TypeError, ValueError, AttributeError, RecursionError)
_BROKEN = (*_WRONG, OSError, SchemaMismatch)


@dataclass(frozen=True, eq=False, kw_only=True)
class Snapshot:
    """A run between two rounds, but for what its workers keep.

    Args:
        now_s: virtual seconds since the run began.
        rounds: those that are closed.
    """

    now_s: float
    rounds: Sequence[SimulatedRound]
    coordinator: KeptCoordinator


class Checkpoint:
    """A run's folder.

    Args:
        folder: made if it is not there.
        schema: of the recipe's model.
        fleet: what the run depends on beside the recipe, as a text.
        narrow: of the model at the narrower levels, by lane.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        schema: Schema,
        fleet: str = "",
        narrow: Mapping[str, Schema] = MappingProxyType({}),
    ) -> None:
        self._folder = folder
        self._recipe = hashlib.sha256((recipe.source + "\0" + fleet).encode()).hexdigest()
        self._schema = schema
        self._narrow = narrow
        self._workers: dict[str, str] = {}  # the file of each worker that keeps something
        self._files: frozenset[str] = frozenset()
        self._rounds_bytes = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out while the body runs; ``load`` and ``save`` belong inside.

        Raises:
            StateInUse: another process has the folder.
            SettingInvalid, StoreUnavailable, StoreFull: the folder cannot be used.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingInvalid(
                f"--checkpoint {self._folder}: cannot be made: {error.strerror}"
            ) from error
        with hold_folder(self._folder, f"--checkpoint {self._folder}:"):
            yield

    def load(self, memories: Memories) -> Snapshot | None:
        """The run as it was when its last round closed; None where there is no such round.

        Args:
            memories: takes what the workers keep.

        Raises:
            SettingInvalid: the folder holds a run of another recipe, or cannot be used.
            DataInvalid: a file is missing or damaged.
        """
        try:
            index = self._read_index()
            if index is None:
                return None
            self._workers = index["workers"]
            self._files = frozenset(index["files"])
            self._rounds_bytes = index["rounds_bytes"]
            for worker_id, name in self._workers.items():
                memories.put(worker_id, decode_arrays((self._folder / name).read_bytes()))
            return self._snapshot(index)
        except _BROKEN as error:
            raise DataInvalid(
                f"--checkpoint {self._folder}: is damaged or cannot be read; take another folder",
                detail=repr(error),
            ) from error

    def save(self, snapshot: Snapshot, memories: Memories) -> None:
        """Keep the run as it is now; it was loaded or saved one round ago.

        Raises:
            SettingInvalid: the folder cannot be written.
        """
        last = snapshot.rounds[-1]
        try:
            for worker_id in last.workers:
                key = memory_key(worker_id, last.levels.get(worker_id, FULL))
                memory = memories.get(key)
                self._workers.pop(key, None)
                if memory:
                    name = f"{key}-{last.round}.safetensors"
                    self._workers[key] = self._write(name, encode_arrays(memory))
            parts = {
                part: self._write(f"{part}-{last.round}.safetensors", data)
                for part, data in _parts(snapshot.coordinator)
            }
            self._append(last)
            self._replace_index(snapshot, parts)
        except OSError as error:
            raise SettingInvalid(
                f"--checkpoint {self._folder}: cannot be written: {error.strerror}"
            ) from error

    def _read_index(self) -> dict[str, Any] | None:
        path = self._folder / _INDEX
        if not path.exists():
            return None
        index: dict[str, Any] = json.loads(path.read_text())
        if (index["format"], index["recipe"]) != (_FORMAT, self._recipe):
            raise SettingInvalid(
                f"--checkpoint {self._folder}: holds a run of another recipe (or fleet, "
                "--batch-workers or release); take another folder, or delete this one"
            )
        return index

    def _snapshot(self, index: Mapping[str, Any]) -> Snapshot:
        with (self._folder / _ROUNDS).open("rb") as file:
            lines = file.read(self._rounds_bytes).splitlines()
        data = self._part(index, "state")
        version = decode_state(self._schema, data)
        published = self._state(index, "published") if "published" in index["parts"] else None
        return Snapshot(
            now_s=index["now_s"],
            rounds=[_round_from(json.loads(line)) for line in lines],
            coordinator=KeptCoordinator(
                state=version,
                published=published,
                memory=decode_arrays(self._part(index, "memory")),
                downlink=self._downlink(index, MAIN, version),
                narrow={lane: self._downlink(index, lane, None) for lane in self._narrow},
                levels=read_level_statistics(data),
            ),
        )

    def _downlink(
        self, index: Mapping[str, Any], lane: str, version: ModelState | None
    ) -> KeptDownlink:
        """Of a level; its base stands in a file of its own unless it is the version itself."""
        base = version
        if base is None or "base" + lane in index["parts"]:
            base = self._state(index, "base" + lane, lane)
        anchor = base
        if "anchor" + lane in index["parts"]:
            anchor = self._state(index, "anchor" + lane, lane)
        return KeptDownlink(base=base, anchor=anchor, **index["downlinks"][lane])

    def _state(self, index: Mapping[str, Any], part: str, lane: str = MAIN) -> ModelState:
        schema = self._schema if lane == MAIN else self._narrow[lane]
        return decode_state(schema, self._part(index, part))

    def _part(self, index: Mapping[str, Any], part: str) -> bytes:
        name: str = index["parts"][part]
        return (self._folder / name).read_bytes()

    def _write(self, name: str, data: bytes) -> str:
        with (self._folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return name

    def _append(self, last: SimulatedRound) -> None:
        with (self._folder / _ROUNDS).open("ab") as file:
            # Of a round that was written and then lost.
            file.truncate(self._rounds_bytes)
            file.write(json.dumps(_round_to(last)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            self._rounds_bytes = file.tell()

    def _replace_index(self, snapshot: Snapshot, parts: Mapping[str, str]) -> None:
        files = frozenset({*parts.values(), *self._workers.values()})
        index = {
            "format": _FORMAT,
            "recipe": self._recipe,
            "round": snapshot.rounds[-1].round,
            "now_s": snapshot.now_s,
            "rounds_bytes": self._rounds_bytes,
            "parts": parts,
            "workers": self._workers,
            "files": sorted(files),
            "downlinks": {
                lane: {
                    "ladder": downlink.ladder,
                    "held": {name: sorted(digests) for name, digests in downlink.held.items()},
                    "waiting_bytes": downlink.waiting_bytes,
                }
                for lane, downlink in _downlinks(snapshot.coordinator)
            },
        }
        self._write(_INDEX + ".new", json.dumps(index).encode())
        sync_folder(self._folder)
        (self._folder / (_INDEX + ".new")).replace(self._folder / _INDEX)
        sync_folder(self._folder)
        for name in self._files - files:
            (self._folder / name).unlink(missing_ok=True)
        self._files = files


def _parts(kept: KeptCoordinator) -> Iterator[tuple[str, bytes]]:
    """The files of a round, each state once."""
    yield "state", encode_state(kept.state, kept.levels)
    yield "memory", encode_arrays(kept.memory)
    if kept.published is not None:
        yield "published", encode_state(kept.published)
    for lane, downlink in _downlinks(kept):
        if downlink.base is not kept.state:
            yield "base" + lane, encode_state(downlink.base)
        if downlink.anchor is not downlink.base:
            yield "anchor" + lane, encode_state(downlink.anchor)


def _downlinks(kept: KeptCoordinator) -> Iterator[tuple[str, KeptDownlink]]:
    """Every level's, by lane."""
    yield MAIN, kept.downlink
    yield from kept.narrow.items()


def _round_to(done: SimulatedRound) -> dict[str, Any]:
    evaluations = {name: one.to_json() for name, one in done.worker_evaluations.items()}
    evaluation = done.evaluation.to_json() if done.evaluation else None
    return {**asdict(done), "evaluation": evaluation, "worker_evaluations": evaluations}


def _round_from(line: dict[str, Any]) -> SimulatedRound:
    evaluation, evaluations = line.pop("evaluation"), line.pop("worker_evaluations")
    return SimulatedRound(
        **{**line, "workers": tuple(line["workers"]), "staleness": tuple(line["staleness"])},
        evaluation=Evaluation.from_json(evaluation) if evaluation else None,
        worker_evaluations={name: Evaluation.from_json(one) for name, one in evaluations.items()},
    )
