from __future__ import annotations

import json
from dataclasses import replace

from contract.store.builders import an_import

from fedfleet.store.protocols import VersionRecord
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet_coordinator.fleet import Known, Session
from fedfleet_coordinator.messages import newest_messages, worker_message
from fedfleet_coordinator.standings import Part
from fedfleet_coordinator.traffic import Moved


def known() -> Known:
    device = pb.DeviceProfile(machine="aarch64", cpu_count=4)
    hello = pb.Hello(worker_id="pi", device=device, tags=["shed"])
    session = Session(hello=hello, connected_at_s=1.0, last_seen_s=2.0)
    session.assignment_id, session.progress_ratio = "r-1/1/1/train/pi", 0.5
    return Known(session, updates=3, level="c")


def test_worker_message_holds_what_is_known_of_a_worker() -> None:
    worker = known()
    worker.session.hear(pb.Heartbeat(battery_ratio=0.25, link_up_bytes_per_s=8.0))
    part = Part(2, 0.5, 1.5, ((1, 0.25), (2, 0.75)), 4)

    message = worker_message("pi", worker, Moved(10, 20), part, is_busy=True)

    assert (message.level, message.rounds, message.of_rounds) == ("c", 2, 4)
    assert (message.weight_ratio, message.round_s) == (0.5, 1.5)
    assert [(one.round, one.accuracy) for one in message.accuracies] == [(1, 0.25), (2, 0.75)]
    assert message.heartbeat.battery_ratio == 0.25
    assert message.device.link_up_bytes_per_s == 8.0
    assert (message.device.machine, message.progress_ratio) == ("aarch64", 0.5)


def test_worker_message_of_an_idle_worker_names_no_assignment() -> None:
    message = worker_message("pi", known(), Moved(), Part(), is_busy=False)

    assert message.assignment_id == ""
    assert not message.HasField("heartbeat")


def a_version(model: str, number: int, **metrics: object) -> VersionRecord:
    return replace(an_import(number, b"x", model=model), metrics=metrics)


def test_list_leaves_out_what_grows_with_the_fleet() -> None:
    evaluation = {"accuracy": 0.5, "confusion": [[1, 0], [0, 1]]}
    version = a_version(
        "a", 1, updates=2, workers=["pi"], traffic={"pi": {"up": 1}}, evaluation=evaluation
    )

    (message,) = newest_messages({"a": [version]}, 1 << 20)
    (other,) = newest_messages({"b": [a_version("b", 1, evaluation=None)]}, 1 << 20)

    assert json.loads(message.metrics_json) == {"updates": 2, "evaluation": {"accuracy": 0.5}}
    assert json.loads(other.metrics_json) == {"evaluation": None}


def test_list_leaves_out_the_oldest_of_every_model() -> None:
    versions = {
        "a": [a_version("a", number, text="x" * 900) for number in (3, 2, 1)],
        "b": [a_version("b", 1, text="x" * 900)],
        "none": [],
    }
    room = control_pb.ListVersionsResponse(versions=newest_messages(versions, 1 << 20)).ByteSize()

    def listed(most: int) -> list[tuple[str, int]]:
        found = newest_messages(versions, most)
        assert control_pb.ListVersionsResponse(versions=found).ByteSize() <= most
        return [(one.model, one.number) for one in found]

    assert listed(1 << 20) == [("a", 3), ("a", 2), ("a", 1), ("b", 1)]
    assert listed(room - 10) == [("a", 3), ("a", 2), ("b", 1)]
    assert listed(room // 2 + 20) == [("a", 3), ("b", 1)]
    assert listed(10) == []
