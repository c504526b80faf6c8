"""Jobs and results are the same on the other side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedfleet.codecs.chain import parse_chain
from fedfleet.codecs.config import WireConfig
from fedfleet.errors import TrainingFailed
from fedfleet.rounds.static_norm import Measured
from fedfleet.sim.jobs import Evaluated, EvaluateJob, Failed, Queried, Result, Trained, TrainJob
from fedfleet.sim.parcels import JobFiles, JobReader, Parcel, read_result, write_result
from fedfleet.types import (
    Array,
    Evaluation,
    FloatVector,
    Kind,
    ModelState,
    ParamSpec,
    Schema,
    Section,
    Update,
    UpdateHeader,
)
from fedfleet.wire.updates import IDENTITY, decode_update
from fedfleet.wire.uplink import encode_uplink

SCHEMA = Schema(
    (
        ParamSpec("weight", (40, 50), Kind.TRAINABLE),
        ParamSpec("running_mean", (3,), Kind.STATISTIC),
        ParamSpec("batches", (), Kind.COUNTER),
    )
)
STATE = ModelState(
    SCHEMA,
    np.linspace(-1, 1, 2000, dtype=np.float32),
    np.array([1, 2, 3], np.float32),
    np.array([7], np.int64),
)
MEMORY: dict[str, Array] = {
    "own": np.ones(4),
    "codec.a.residual": np.arange(3, dtype=np.uint8),
    "n": np.array(1),
}
JOB = TrainJob(
    assignment_id="sim/1/1/train/worker-3",
    worker_id="worker-3",
    round=4,
    seed=(1 << 63) - 1,
    base=STATE,
    base_digest="sim",
    broadcast=(Section("control", Kind.TRAINABLE, np.ones(2000, np.float32)),),
    memory=MEMORY,
)
HEADER = UpdateHeader(
    run_id="sim",
    round=4,
    assignment_id=JOB.assignment_id,
    worker_id="worker-3",
    base_digest="sim",
    schema_digest=SCHEMA.digest,
    weight=12.0,
    steps=3,
    lr_sum=0.1 + 0.2,
    metrics={"train_loss": 1 / 3},
)
UPDATE = Update(HEADER, tuple(Section(kind.value, kind, STATE.vector(kind)) for kind in Kind))


def sent(parcel: Parcel) -> Parcel:
    """A parcel as the other process reads it."""
    copy: Parcel = json.loads(json.dumps(parcel))
    return copy


def same_memory(left: object, right: object) -> bool:
    assert isinstance(left, dict)
    assert isinstance(right, dict)
    return {name: (v.dtype, v.shape, v.tobytes()) for name, v in left.items()} == {
        name: (v.dtype, v.shape, v.tobytes()) for name, v in right.items()
    }


def test_train_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    parcel = sent(JobFiles(tmp_path).write(JOB))

    job = JobReader(tmp_path, lambda level: SCHEMA).read(parcel)

    assert isinstance(job, TrainJob)
    for name in ("assignment_id", "worker_id", "round", "seed", "base_digest"):
        assert getattr(job, name) == getattr(JOB, name)
    for kind in Kind:
        assert job.base.vector(kind).tobytes() == STATE.vector(kind).tobytes()
    (control,) = job.broadcast
    assert (control.name, control.kind) == ("control", Kind.TRAINABLE)
    assert control.values.tobytes() == JOB.broadcast[0].values.tobytes()
    assert same_memory(job.memory, MEMORY)


@pytest.mark.parametrize("probe_seed", [None, 0, 2**63 - 1])
def test_evaluate_job_is_read_as_it_was_written(tmp_path: Path, probe_seed: int | None) -> None:
    given = EvaluateJob(
        assignment_id="a", worker_id="worker-1", base=STATE, memory={}, probe_seed=probe_seed
    )

    job = JobReader(tmp_path, lambda level: SCHEMA).read(sent(JobFiles(tmp_path).write(given)))

    assert isinstance(job, EvaluateJob)
    assert (job.assignment_id, job.worker_id, job.memory) == ("a", "worker-1", {})
    assert job.probe_seed == probe_seed
    assert job.base.trainable.tobytes() == STATE.trainable.tobytes()


def test_job_files_write_a_shared_base_once_and_forget_it(tmp_path: Path) -> None:
    files = JobFiles(tmp_path)
    given = EvaluateJob(assignment_id="a", worker_id="worker-1", base=STATE, memory={})

    names = {files.write(given)["base"] for _ in range(3)}

    assert [path.name for path in tmp_path.iterdir()] == list(names)
    files.forget()
    assert list(tmp_path.iterdir()) == []


def test_reading_a_job_deletes_its_workers_memory(tmp_path: Path) -> None:
    parcel = JobFiles(tmp_path).write(JOB)

    JobReader(tmp_path, lambda level: SCHEMA).read(parcel)

    assert not (tmp_path / parcel["memory"]).exists()


def there_and_back(result: Result, folder: Path, chain: object = IDENTITY) -> Result:
    path = folder / "result"
    back = read_result(sent(write_result(result, path)), JOB.assignment_id, path, {"a": chain})  # type: ignore[arg-type]
    assert not path.exists()
    return back


def test_trained_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    given = Trained(
        assignment_id=JOB.assignment_id,
        update=UPDATE,
        memory=MEMORY,
        upload_bytes=99,
        examples=24,
    )

    result = there_and_back(given, tmp_path)

    assert isinstance(result, Trained)
    assert result.update.header == HEADER
    assert (result.upload_bytes, result.examples) == (99, 24)
    assert same_memory(result.memory, MEMORY)
    for found, section in zip(result.update.sections, UPDATE.sections, strict=True):
        assert (found.name, found.kind) == (section.name, section.kind)
        assert found.values.tobytes() == section.values.tobytes()


@pytest.mark.parametrize("levels", [{}, {"b": np.ones(2, np.float32), "c": np.zeros(0, "f4")}])
def test_measured_statistics_are_read_as_they_were_written(
    levels: dict[str, FloatVector], tmp_path: Path
) -> None:
    measured = Measured(7, STATE.statistics, STATE.counters, levels)

    result = there_and_back(Queried(assignment_id=JOB.assignment_id, measured=measured), tmp_path)

    assert isinstance(result, Queried)
    found = result.measured
    assert found.samples == 7
    assert found.statistics.tobytes() == STATE.statistics.tobytes()
    assert found.counters.tobytes() == STATE.counters.tobytes()
    assert {level: one.tobytes() for level, one in found.levels.items()} == {
        level: one.tobytes() for level, one in levels.items()
    }


def test_memory_that_came_back_holds_none_of_the_sections(tmp_path: Path) -> None:
    given = Trained(
        assignment_id=JOB.assignment_id,
        update=UPDATE,
        memory=MEMORY,
        upload_bytes=99,
        examples=24,
    )

    result = there_and_back(given, tmp_path)

    assert isinstance(result, Trained)
    assert set(result.memory) == set(MEMORY)
    assert all(array.base is None for array in result.memory.values())


@pytest.mark.parametrize("text", ["int8", "topk:0.1|int8"])
def test_encoded_sections_travel_encoded_and_decode_alike(text: str, tmp_path: Path) -> None:
    chain = parse_chain(text)
    encoded, _ = encode_uplink(UPDATE, WireConfig(uplink=text), chain, {}, 5)
    update = decode_update(encoded.header, encoded.payload, chain)
    given = Trained(
        assignment_id=JOB.assignment_id, update=update, memory={}, upload_bytes=1, examples=1
    )

    path = tmp_path / "result"
    parcel = write_result(given, path)
    size = path.stat().st_size
    result = read_result(parcel, JOB.assignment_id, path, {"a": chain})

    assert size < STATE.trainable.nbytes / 2
    assert isinstance(result, Trained)
    for found, section in zip(result.update.sections, update.sections, strict=True):
        assert found.values.tobytes() == section.values.tobytes()


def test_evaluation_and_failure_are_read_as_they_were_written(tmp_path: Path) -> None:
    evaluation = Evaluation(
        samples=3,
        loss_sum=1 / 3,
        correct=2,
        top5=3,
        class_samples=(1, 2),
        class_correct=(1, 1),
        class_predicted=(2, 1),
    )
    evaluated = Evaluated(assignment_id=JOB.assignment_id, evaluation=evaluation)
    failed = Failed(assignment_id=JOB.assignment_id, code=TrainingFailed.code, reason="diverged")

    for given in (evaluated, failed):
        path = tmp_path / "result"
        parcel = sent(write_result(given, path))
        assert read_result(parcel, JOB.assignment_id, path, {"a": IDENTITY}) == given
