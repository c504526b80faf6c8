from __future__ import annotations

import json

from fedfleet.cli.documents import (
    event_document,
    is_over,
    run_document,
    state_name,
    version_document,
    worker_document,
)
from fedfleet.store.protocols import RunState
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1 import federation_service_pb2 as federation


def test_state_names_are_the_stores() -> None:
    states = [state for state in pb.RunState.values() if state != pb.RUN_STATE_UNSPECIFIED]

    assert {state_name(state): is_over(state) for state in states} == {
        state.value: state.final for state in RunState
    }


def test_documents_hold_every_field_of_their_messages() -> None:
    def fields(message: type) -> set[str]:
        return set(message.DESCRIPTOR.fields_by_name)

    assert set(run_document(pb.Run())) == fields(pb.Run) - {"recipe"}
    assert set(worker_document(pb.Worker())) == fields(pb.Worker)
    full = pb.Worker(
        device=federation.DeviceProfile(levels=[federation.LevelSpeed()]),
        heartbeat=federation.Heartbeat(),
        accuracies=[pb.WorkerAccuracy()],
    )
    document = worker_document(full)
    assert set(document["device"]) == fields(federation.DeviceProfile)
    assert set(document["device"]["levels"][0]) == fields(federation.LevelSpeed)
    assert set(document["heartbeat"]) == fields(federation.Heartbeat)
    assert set(document["accuracies"][0]) == fields(pb.WorkerAccuracy)


def test_worker_document_has_null_for_what_was_not_measured() -> None:
    worker = pb.Worker(heartbeat=federation.Heartbeat(battery_ratio=0.0))

    document = worker_document(worker)

    assert document["heartbeat"]["battery_ratio"] == 0.0
    assert document["heartbeat"]["temperature_celsius"] is None
    assert document["device"]["link_up_bytes_per_s"] is None
    assert worker_document(pb.Worker())["heartbeat"] is None


def test_version_document_has_the_aliases_that_point_at_it() -> None:
    version = pb.Version(model="m", number=2, card_json='{"classes": ["a", "b"]}')
    aliases = [
        pb.Alias(name="latest", version=3, revision=3),
        pb.Alias(name="production", version=2, revision=1),
    ]

    document = version_document(version, aliases)

    assert document["aliases"] == [{"name": "production", "version": 2, "revision": 1}]
    assert document["card"] == {"classes": ["a", "b"]}
    assert document["parent"] is None


def test_event_document_unpacks_the_fields() -> None:
    event = pb.RunEvent(event_id=7, kind="cohort_selected", fields_json='{"workers": ["w"]}')

    document = json.loads(json.dumps(event_document(event)))

    assert document["fields"] == {"workers": ["w"]}
    assert document["event_id"] == 7
