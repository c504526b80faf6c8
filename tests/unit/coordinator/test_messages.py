from __future__ import annotations

from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet_coordinator.fleet import Known, Session
from fedfleet_coordinator.messages import worker_message
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
