from __future__ import annotations

import math

import pytest

from fedfleet.errors import LimitExceeded
from fedfleet.rounds.level_facts import Speed, Told
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet_coordinator.fleet import Fleet, Session
from fedfleet_coordinator.metrics import CoordinatorMetrics

DIGEST = "d" * 64


def speed(level: str, samples_per_s: float, digest: str = DIGEST) -> pb.LevelSpeed:
    return pb.LevelSpeed(
        level=level, samples_per_s=samples_per_s, memory_bytes=1000, model_digest=digest
    )


def session(*levels: pb.LevelSpeed, worker_id: str = "pi") -> Session:
    device = pb.DeviceProfile(memory_bytes=5000, link_up_bytes_per_s=7.0, levels=levels)
    hello = pb.Hello(worker_id=worker_id, device=device)
    return Session(hello=hello, connected_at_s=1.0, last_seen_s=1.0)


def fleet(*sessions: Session) -> Fleet:
    made = Fleet(CoordinatorMetrics())
    for one in sessions:
        made.join(one)
    return made


def test_fleet_tells_what_a_worker_said_in_its_hello() -> None:
    made = fleet(session(speed("a", 3.0), speed("b", 9.0)))

    told = made.told("pi", DIGEST)

    assert told == Told(
        speeds={"a": Speed(3.0, 1000.0), "b": Speed(9.0, 1000.0)},
        memory_bytes=5000.0,
        up_bytes_per_s=7.0,
    )
    assert made.told("nobody", DIGEST) == Told()


def test_fleet_leaves_out_figures_of_another_model() -> None:
    made = fleet(session(speed("a", 3.0, "e" * 64), speed("b", 9.0)))

    assert made.told("pi", DIGEST).speeds == {"b": Speed(9.0, 1000.0)}


def test_fleet_takes_figures_and_links_of_a_heartbeat() -> None:
    here = session(speed("a", 3.0))
    made = fleet(here)

    here.hear(pb.Heartbeat(levels=[speed("a", 4.0), speed("b", 8.0)], link_down_bytes_per_s=5.0))
    here.hear(pb.Heartbeat(load_average=0.5))

    told = made.told("pi", DIGEST)
    assert {level: one.samples_per_s for level, one in told.speeds.items()} == {"a": 4.0, "b": 8.0}
    assert (told.down_bytes_per_s, told.up_bytes_per_s) == (5.0, 7.0)
    assert here.device.samples_per_s == 4.0
    assert here.hello.device.levels[0].samples_per_s == 3.0
    assert here.heartbeat == pb.Heartbeat(load_average=0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_fleet_takes_no_speed_that_cannot_be(value: float) -> None:
    made = fleet(session(speed("a", value)))

    assert made.told("pi", DIGEST).speeds == {"a": Speed(0.0, 1000.0)}


def test_fleet_bounds_what_a_worker_says() -> None:
    here = session()

    with pytest.raises(LimitExceeded, match="17 levels"):
        here.hear(pb.Heartbeat(levels=[speed("a", 1.0)] * 17))
    with pytest.raises(LimitExceeded, match="characters in a level"):
        session(speed("a" * 65, 1.0))
    here.hear(pb.Heartbeat(pause_reason="hot" * 1000))
    assert here.heartbeat is not None
    assert len(here.heartbeat.pause_reason) == 1024


@pytest.mark.parametrize("name", ["machine", "accelerator", "os", "software_version"])
def test_fleet_bounds_each_text_of_a_hello(name: str) -> None:
    def hello(text: str) -> pb.Hello:
        if name == "software_version":
            return pb.Hello(worker_id="pi", software_version=text)
        return pb.Hello(worker_id="pi", device=pb.DeviceProfile(**{name: text}))

    Session(hello=hello("x" * 256), connected_at_s=1.0, last_seen_s=1.0)
    with pytest.raises(LimitExceeded, match=f"257 characters in {name}"):
        Session(hello=hello("x" * 257), connected_at_s=1.0, last_seen_s=1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_fleet_takes_only_numbers(value: float) -> None:
    levels = [speed("a", value)]
    device = pb.DeviceProfile(
        samples_per_s=value,
        link_down_bytes_per_s=value,
        link_up_bytes_per_s=value,
        levels=levels,
    )
    hello = pb.Hello(worker_id="pi", device=device)
    here = Session(hello=hello, connected_at_s=1.0, last_seen_s=1.0)
    here.hear(
        pb.Heartbeat(
            temperature_celsius=value,
            battery_ratio=value,
            load_average=value,
            link_down_bytes_per_s=value,
            link_up_bytes_per_s=value,
            levels=levels,
        )
    )

    assert here.device == pb.DeviceProfile(levels=[speed("a", 0.0)])
    assert here.heartbeat == pb.Heartbeat(levels=[speed("a", 0.0)])


def test_fleet_clips_figures_to_what_can_be() -> None:
    here = session(speed("a", 1e300), speed("b", -5.0))
    here.hear(pb.Heartbeat(temperature_celsius=-12.5, battery_ratio=7.0, load_average=1e300))

    assert [one.samples_per_s for one in here.device.levels] == [1e12, 0.0]
    assert here.heartbeat == pb.Heartbeat(
        temperature_celsius=-12.5, battery_ratio=1.0, load_average=1e12
    )


def test_fleet_believes_no_speed_that_no_device_has() -> None:
    made = fleet(session(speed("a", 1e12), speed("b", 1e-9), speed("c", 0.0)))

    speeds = {level: one.samples_per_s for level, one in made.told("pi", DIGEST).speeds.items()}

    assert speeds == {"a": 1e9, "b": 1e-3, "c": 0.0}


def test_fleet_remembers_the_level_of_the_last_assignment() -> None:
    made = fleet(session())
    assert made.known["pi"].level == ""

    made.send("pi", pb.ConnectResponse(assignment=pb.Assignment(level="c")))
    made.send("pi", pb.ConnectResponse(cancel=pb.CancelAssignment()))
    made.join(session())

    assert made.known["pi"].level == "c"


def test_a_worker_that_rests_is_connected_and_not_ready() -> None:
    here, there = session(), session(worker_id="nano")
    made = fleet(here, there)
    told: list[frozenset[str]] = []
    made.listen(lambda: told.append(made.ready))

    for reason in ("", "too hot", "outside its hours", ""):
        made.hear(here, pb.Heartbeat(pause_reason=reason))

    assert told == [frozenset({"nano"}), frozenset({"pi", "nano"})]
    assert made.connected == {"pi", "nano"}


def test_a_worker_rests_from_its_hello_on() -> None:
    hello = pb.Hello(worker_id="pi", pause_reason="outside its hours")
    here = Session(hello=hello, connected_at_s=1.0, last_seen_s=1.0)
    made = fleet(here)
    assert (made.ready, made.resting) == (frozenset(), {"pi"})

    made.hear(here, pb.Heartbeat())

    assert (made.ready, made.resting) == ({"pi"}, frozenset())
