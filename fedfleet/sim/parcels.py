"""Jobs and results on their way between processes: a small JSON object each, arrays in files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedfleet.algorithms.base import Memory
from fedfleet.codecs.chain import Chain
from fedfleet.codecs.encoded import Encoded
from fedfleet.rounds.static_norm import Measured
from fedfleet.sim.array_files import map_arrays, write_arrays
from fedfleet.sim.jobs import (
    Evaluated,
    EvaluateJob,
    Failed,
    Job,
    Queried,
    QueryJob,
    Result,
    Trained,
    TrainJob,
)
from fedfleet.types import (
    Array,
    Evaluation,
    Kind,
    ModelState,
    Schema,
    Section,
    Update,
    UpdateHeader,
    UpdateSection,
)
from fedfleet.wire.updates import EncodedSection

# JSON objects of our own processes; Any, as in json.
Parcel = dict[str, Any]

# By level: an update's small tensors are others at another width.
Chains = Mapping[str, Chain]

_MEMORY = "memory."
_SECTION = "section."
_LEVEL = "level."


def pack_job(job: Job) -> Parcel:
    """What of a job is no array."""
    parcel: Parcel = {
        "assignment_id": job.assignment_id,
        "worker_id": job.worker_id,
        "level": job.level,
    }
    if isinstance(job, QueryJob):
        return {**parcel, "query": True}
    if isinstance(job, EvaluateJob):
        return {**parcel, "probe_seed": job.probe_seed}
    return {
        **parcel,
        "round": job.round,
        "seed": job.seed,
        "max_steps": job.max_steps,
        "base_digest": job.base_digest,
        "sections": [[section.name, section.kind.value] for section in job.broadcast],
    }


def unpack_job(parcel: Parcel, base: ModelState, broadcast: Sequence[Array], memory: Memory) -> Job:
    """A job out of its parts; ``broadcast`` holds the values of its sections."""
    assignment_id, worker_id = parcel["assignment_id"], parcel["worker_id"]
    if "query" in parcel:
        return QueryJob(
            assignment_id=assignment_id,
            worker_id=worker_id,
            base=base,
            memory=memory,
            level=parcel["level"],
        )
    if "round" not in parcel:
        return EvaluateJob(
            assignment_id=assignment_id,
            worker_id=worker_id,
            base=base,
            memory=memory,
            probe_seed=parcel["probe_seed"],
            level=parcel["level"],
        )
    sections = zip(parcel["sections"], broadcast, strict=True)
    return TrainJob(
        assignment_id=assignment_id,
        worker_id=worker_id,
        round=parcel["round"],
        seed=parcel["seed"],
        max_steps=parcel["max_steps"],
        base=base,
        base_digest=parcel["base_digest"],
        broadcast=tuple(Section(name, Kind(kind), values) for (name, kind), values in sections),
        memory=memory,
        level=parcel["level"],
    )


class JobFiles:
    """Writes jobs; what several of them share is written once.

    Args:
        folder: shared with the processes that carry the jobs out.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[int, tuple[object, str]] = {}
        self._number = 0

    def write(self, job: Job) -> Parcel:
        """Write a job's arrays and return the rest of it."""
        base = {kind.value: job.base.vector(kind) for kind in Kind}
        parcel = pack_job(job)
        parcel["base"] = self._once(job.base, base)
        parcel["memory"] = self._new(job.memory) if job.memory else ""
        if isinstance(job, TrainJob) and job.broadcast:
            values = {str(place): one.values for place, one in enumerate(job.broadcast)}
            parcel["broadcast"] = self._once(job.broadcast, values)
        return parcel

    def forget(self) -> None:
        """Delete what was written once; processes that mapped it keep it."""
        for _, name in self._written.values():
            (self._folder / name).unlink(missing_ok=True)
        self._written.clear()

    def _once(self, owner: object, arrays: Mapping[str, Array]) -> str:
        """Write an object's arrays unless they have been; holds it, so its id stays its own."""
        if id(owner) not in self._written:
            self._written[id(owner)] = (owner, self._new(arrays))
        return self._written[id(owner)][1]

    def _new(self, arrays: Mapping[str, Array]) -> str:
        self._number += 1
        name = f"arrays-{self._number}"
        write_arrays(self._folder / name, arrays)
        return name


class JobReader:
    """Reads jobs where they are carried out; keeps the base that was used last.

    Args:
        schema: of the model at a level.
    """

    def __init__(self, folder: Path, schema: Callable[[str], Schema]) -> None:
        self._folder = folder
        self._schema = schema
        self._base: tuple[str, ModelState] | None = None

    def read(self, parcel: Parcel) -> Job:
        """Map a job's arrays."""
        memory: Memory = {}
        if parcel["memory"]:
            path = self._folder / parcel["memory"]
            memory = map_arrays(path)
            path.unlink()
        broadcast: list[Array] = []
        if "broadcast" in parcel:
            broadcast = list(map_arrays(self._folder / parcel["broadcast"]).values())
        return unpack_job(parcel, self._state(parcel["base"], parcel["level"]), broadcast, memory)

    def _state(self, name: str, level: str) -> ModelState:
        if self._base is None or self._base[0] != name:
            vectors = map_arrays(self._folder / name)
            state = ModelState(self._schema(level), *(vectors[kind.value] for kind in Kind))
            self._base = (name, state)
        return self._base[1]


def pack_result(result: Result) -> tuple[Parcel, dict[str, Array]]:
    """A result in parts: what is no array, and the arrays."""
    if isinstance(result, Evaluated):
        return {"evaluation": result.evaluation.to_json()}, {}
    if isinstance(result, Failed):
        return {"code": result.code, "reason": result.reason}, {}
    if isinstance(result, Queried):
        one = result.measured
        vectors: dict[str, Array] = {"statistics": one.statistics, "counters": one.counters}
        vectors |= {_LEVEL + level: vector for level, vector in one.levels.items()}
        return {"samples": one.samples}, vectors
    sections = result.update.sections
    arrays = {f"{_SECTION}{place}": _carried(section) for place, section in enumerate(sections)}
    arrays |= {_MEMORY + name: array for name, array in result.memory.items()}
    header = result.update.header
    parcel: Parcel = {
        "upload_bytes": result.upload_bytes,
        "examples": result.examples,
        "header": {
            "round": header.round,
            "worker_id": header.worker_id,
            "run_id": header.run_id,
            "base_digest": header.base_digest,
            "schema_digest": header.schema_digest,
            "weight": header.weight,
            "steps": header.steps,
            "lr_sum": header.lr_sum,
            "level": header.level,
            "metrics": dict(header.metrics),
        },
        "sections": [
            [one.name, one.kind.value, one.elements, isinstance(one, EncodedSection)]
            for one in sections
        ],
    }
    return parcel, arrays


def write_result(result: Result, path: Path) -> Parcel:
    """Write a result's arrays, if it has any, and return the rest of it."""
    parcel, arrays = pack_result(result)
    if arrays:
        write_arrays(path, arrays)
    return parcel


def read_result(parcel: Parcel, assignment_id: str, path: Path, chains: Chains) -> Result:
    """Map a result's arrays and delete their file; as ``unpack_result``."""
    arrays: dict[str, Array] = {}
    if "header" in parcel or "samples" in parcel:
        arrays = map_arrays(path)
        path.unlink()
    return unpack_result(parcel, arrays, assignment_id, chains)


def unpack_result(
    parcel: Parcel, arrays: Mapping[str, Array], assignment_id: str, chains: Chains
) -> Result:
    """A result out of its parts.

    Args:
        chains: what encoded sections went through, by level.
    """
    if "evaluation" in parcel:
        evaluation = Evaluation.from_json(parcel["evaluation"])
        return Evaluated(assignment_id=assignment_id, evaluation=evaluation)
    if "code" in parcel:
        return Failed(assignment_id=assignment_id, code=parcel["code"], reason=parcel["reason"])
    if "samples" in parcel:
        measured = Measured(
            parcel["samples"],
            arrays["statistics"].copy(),
            arrays["counters"].copy(),
            {
                name.removeprefix(_LEVEL): array.copy()
                for name, array in arrays.items()
                if name.startswith(_LEVEL)
            },
        )
        return Queried(assignment_id=assignment_id, measured=measured)
    chain = chains[parcel["header"]["level"]]
    sections = tuple(
        _section(row, arrays[f"{_SECTION}{place}"], chain)
        for place, row in enumerate(parcel["sections"])
    )
    header = UpdateHeader(assignment_id=assignment_id, **parcel["header"])
    return Trained(
        assignment_id=assignment_id,
        update=Update(header, sections),
        # Kept for long, so not as views, which would hold the sections in memory as well.
        memory={
            name.removeprefix(_MEMORY): array.copy()
            for name, array in arrays.items()
            if name.startswith(_MEMORY)
        },
        upload_bytes=parcel["upload_bytes"],
        examples=parcel["examples"],
    )


def _carried(section: UpdateSection) -> Array:
    """A section's values, or its bytes where it is encoded."""
    if isinstance(section, EncodedSection):
        return np.frombuffer(section.encoded.data, np.uint8)
    return section.values


def _section(row: Sequence[Any], array: Array, chain: Chain) -> UpdateSection:
    name, kind, elements, is_encoded = row
    if not is_encoded:
        return Section(name, Kind(kind), array)
    encoded = Encoded(chain.steps, elements, memoryview(array))  # type: ignore[arg-type]
    return EncodedSection(name, Kind(kind), encoded, chain)
