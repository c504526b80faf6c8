"""The store's records as messages of the control service."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from fedfleet.store.protocols import (
    AliasRecord,
    Entry,
    RegistryEvent,
    RunRecord,
    RunState,
    VersionRecord,
)
from fedfleet.types import Evaluation
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.evaluations import evaluation_to_message
from fedfleet_coordinator.fleet import Known
from fedfleet_coordinator.standings import Part
from fedfleet_coordinator.traffic import Moved

RUN_STATES: Mapping[RunState, pb.RunState.ValueType] = {
    RunState.QUEUED: pb.RUN_STATE_QUEUED,
    RunState.RUNNING: pb.RUN_STATE_RUNNING,
    RunState.COMPLETED: pb.RUN_STATE_COMPLETED,
    RunState.FAILED: pb.RUN_STATE_FAILED,
    RunState.STOPPED: pb.RUN_STATE_STOPPED,
}

# Of a version's metrics, what a list leaves out: it says something for each worker of the round.
_UNLISTED = frozenset({"traffic", "workers"})
_FIELD_BYTES = 6  # before a message that is part of another: which one it is, and its length


def run_message(run: RunRecord) -> pb.Run:
    return pb.Run(
        run_id=run.run_id,
        model=run.model,
        state=RUN_STATES[run.state],
        round=run.round,
        rounds=run.rounds,
        created_at_s=run.created_at_s,
        updated_at_s=run.updated_at_s,
        code=run.code,
        reason=run.reason,
        recipe=run.recipe,
    )


def event_message(entry: Entry) -> pb.RunEvent:
    return pb.RunEvent(
        event_id=entry.event_id,
        run_id=entry.run_id,
        round=entry.round,
        at_s=entry.at_s,
        kind=entry.kind,
        fields_json=json.dumps(dict(entry.fields)),
    )


def version_message(version: VersionRecord) -> pb.Version:
    return pb.Version(
        model=version.model,
        number=version.number,
        digest=version.digest,
        size_bytes=version.size_bytes,
        schema_digest=version.schema.digest,
        run_id=version.run_id,
        round=version.round,
        parent=version.parent or 0,
        created_at_s=version.created_at_s,
        card_json=json.dumps(dict(version.card)),
        metrics_json=json.dumps(dict(version.metrics)),
        signature=version.signature,
        lineage_json=json.dumps(dict(version.lineage)),
        retired_at_s=version.retired_at_s or 0.0,
    )


def listed_version_message(version: VersionRecord) -> pb.Version:
    """The message without what grows with the fleet and what a list does not show."""
    metrics = {name: value for name, value in version.metrics.items() if name not in _UNLISTED}
    evaluation = metrics.get("evaluation")
    if isinstance(evaluation, Mapping):
        metrics["evaluation"] = {
            name: value for name, value in evaluation.items() if name != "confusion"
        }
    return version_message(replace(version, metrics=metrics))


def newest_messages(versions: Mapping[str, Iterable[VersionRecord]], most: int) -> list[pb.Version]:
    """The newest versions of every model that fit into so many bytes, by model, newest first.

    Args:
        versions: of each model, newest first; not read much further than what fits.
    """
    found: dict[str, list[pb.Version]] = {model: [] for model in versions}
    room = most
    for rank in zip_longest(*versions.values()):
        for version in rank:
            if version is None:
                continue
            message = listed_version_message(version)
            room -= message.ByteSize() + _FIELD_BYTES
            if room < 0:
                return [one for of_model in found.values() for one in of_model]
            found[version.model].append(message)
    return [one for of_model in found.values() for one in of_model]


def alias_messages(aliases: Mapping[str, AliasRecord]) -> list[pb.Alias]:
    return [alias_message(record) for _, record in sorted(aliases.items())]


def alias_message(record: AliasRecord) -> pb.Alias:
    return pb.Alias(name=record.alias, version=record.number, revision=record.revision)


def registry_event_message(event: RegistryEvent) -> pb.RegistryEvent:
    return pb.RegistryEvent(
        event_id=event.event_id,
        kind=event.kind,
        model=event.model,
        version=event.number,
        alias=event.alias,
        at_s=event.at_s,
    )


def worker_message(
    worker_id: str, known: Known, moved: Moved, part: Part, *, is_busy: bool
) -> pb.Worker:
    """What is known of a worker.

    Args:
        part: in the run that is active, or was.
        is_busy: whether what it reported on last is still wanted.
    """
    session = known.session
    return pb.Worker(
        worker_id=worker_id,
        connected=known.connected,
        connected_at_s=session.connected_at_s,
        last_seen_s=session.last_seen_s,
        device=session.device,
        tags=session.hello.tags,
        software_version=session.hello.software_version,
        assignment_id=session.assignment_id if is_busy else "",
        progress_ratio=session.progress_ratio if is_busy else 0.0,
        updates=known.updates,
        traffic=pb.Traffic(bytes_up=moved.up, bytes_down=moved.down),
        heartbeat=session.heartbeat,
        level=known.level,
        rounds=part.rounds,
        weight_ratio=part.weight_ratio,
        round_s=part.round_s,
        accuracies=[
            pb.WorkerAccuracy(round=round, accuracy=accuracy) for round, accuracy in part.accuracies
        ],
        of_rounds=part.of_rounds,
    )


def round_messages(entries: Iterable[Entry]) -> list[pb.RoundSummary]:
    """Every committed round, with what its workers reported of the version."""
    rounds: dict[int, pb.RoundSummary] = {}
    for entry in entries:
        if entry.kind == "round_committed":
            rounds[entry.round] = _round(entry, entry.fields["metrics"])
        elif entry.kind == "evaluation_reported" and entry.round in rounds:
            worker_id = entry.fields["assignment_id"].rsplit("/", 1)[1]
            evaluation = Evaluation.from_json(entry.fields["evaluation"])
            evaluations = rounds[entry.round].worker_evaluations
            evaluations[worker_id].CopyFrom(evaluation_to_message(evaluation))
    return [rounds[number] for number in sorted(rounds)]


def _round(entry: Entry, metrics: Mapping[str, Any]) -> pb.RoundSummary:
    summary = pb.RoundSummary(
        round=entry.round,
        version=entry.fields["version"],
        committed_at_s=entry.at_s,
        duration_s=metrics["duration_s"],
        updates=metrics["updates"],
        weight=metrics["weight"],
        metrics=metrics["train"],
        bytes_up=metrics["bytes_up"],
        traffic={
            worker_id: pb.Traffic(bytes_up=moved["up"], bytes_down=moved["down"])
            for worker_id, moved in metrics.get("traffic", {}).items()
        },
    )
    if metrics["evaluation"] is not None:
        evaluation = Evaluation.from_json(metrics["evaluation"])
        summary.evaluation.CopyFrom(evaluation_to_message(evaluation))
    return summary
