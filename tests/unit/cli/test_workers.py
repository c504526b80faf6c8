from __future__ import annotations

import math
from io import StringIO

import pytest
from rich.console import Console

from fedfleet.cli.worker_view import show_worker
from fedfleet.cli.workers import named, worker_state, worker_table
from fedfleet.errors import NotFound
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1 import federation_service_pb2 as federation

GIB = 1 << 30


def pi() -> pb.Worker:
    """A worker of which everything is known."""
    return pb.Worker(
        worker_id="pi-3",
        connected=True,
        last_seen_s=1.0,
        device=federation.DeviceProfile(
            machine="aarch64",
            cpu_count=4,
            memory_bytes=GIB,
            samples_per_s=12.5,
            os="Linux 6",
            levels=[
                federation.LevelSpeed(level="a", samples_per_s=0.0),
                federation.LevelSpeed(level="b", samples_per_s=50.0, memory_bytes=300_000_000),
            ],
            link_down_bytes_per_s=2_000_000.0,
            link_up_bytes_per_s=500_000.0,
        ),
        tags=["shed"],
        updates=7,
        traffic=pb.Traffic(bytes_up=1000, bytes_down=2000),
        heartbeat=federation.Heartbeat(
            temperature_celsius=71.4,
            battery_ratio=0.3,
            pause_reason="71 C: too hot",
            load_average=1.5,
            memory_used_bytes=250_000_000,
        ),
        level="b",
        rounds=6,
        of_rounds=8,
        weight_ratio=0.125,
        round_s=4.25,
        accuracies=[
            pb.WorkerAccuracy(round=1, accuracy=0.5),
            pb.WorkerAccuracy(round=2, accuracy=0.75),
            pb.WorkerAccuracy(round=4, accuracy=0.625),
        ],
    )


def printed(width: int, *workers: pb.Worker) -> str:
    out = Console(file=StringIO(), width=width)
    out.print(worker_table(out, workers))
    shown: str = out.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO
    return shown


def columns(shown: str) -> set[str]:
    return {name.strip() for name in shown.splitlines()[1].strip("┃").split("┃")}


def test_table_shows_what_a_worker_is_and_has_done() -> None:
    shown = printed(400, pi())

    for cell in (
        *("pi-3", "paused", "71 C: too hot", "6/8", "12.5 %", "4.25 s", "62.5 %", "2 MB/s"),
        *("500 kB/s", "30.0 %", "71 C", "1.07 GB", "shed", "aarch64", "12.5"),
    ):
        assert cell in shown, cell


def test_table_of_a_narrow_terminal_keeps_what_matters_most() -> None:
    shown = printed(72, pi())

    assert {"worker", "state", "level", "last seen", "rounds", "share"} <= columns(shown)
    assert not {"memory", "tags", "load", "up"} & columns(shown)
    assert max(map(len, shown.splitlines())) <= 72


def test_table_of_sixty_columns_shows_whole_names() -> None:
    worker = pi()
    worker.worker_id = "raspberry-pi-in-the-attic-of-house-7"

    shown = printed(60, worker)

    assert worker.worker_id in shown
    assert "paused" in shown
    assert max(map(len, shown.splitlines())) <= 60


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_speed_that_is_no_number_is_none(value: float) -> None:
    worker = pi()
    worker.device.link_up_bytes_per_s = value
    out = Console(file=StringIO(), width=200)

    show_worker(out, worker, "idle")

    assert "- up" in out.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO
    assert printed(400, worker)


def test_table_leaves_out_what_no_worker_has() -> None:
    bare = pb.Worker(worker_id="w", connected=True, last_seen_s=1.0)

    assert not {"battery", "temperature", "why", "link up"} & columns(printed(400, bare))
    assert {"battery", "why"} <= columns(printed(400, bare, pi()))


def test_worker_state_in_words() -> None:
    assert worker_state(pb.Worker(connected=False, assignment_id="a")) == "away"
    assert worker_state(pb.Worker(connected=True)) == "idle"
    busy = pb.Worker(connected=True, assignment_id="a", progress_ratio=0.42)
    assert worker_state(busy) == "busy 42 %"
    assert worker_state(pi()) == "paused"


def test_named_finds_one_worker_or_says_who_is_there() -> None:
    assert named([pi()], "pi-3") == pi()
    with pytest.raises(NotFound, match=r"worker 'pi': .*known: pi-3"):
        named([pi()], "pi")
    with pytest.raises(NotFound, match="none has connected yet"):
        named([], "pi")


def test_view_shows_a_worker_its_levels_and_its_accuracies() -> None:
    out = Console(file=StringIO(), width=100)

    show_worker(out, pi(), "paused")

    shown = out.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO
    for text in (
        *("paused: 71 C: too hot", "6 of 8", "12.5 %", "2 MB/s down, 500 kB/s up"),
        *("1.07 GB, 250 MB used by the worker", "out of memory", "300 MB"),
        *("rounds 1 to 4, best 75.0 % in round 2", "62.5 %"),
    ):
        assert text in shown, text
    assert "▄▆▅" in shown or "+#*" in shown


def test_view_of_a_worker_that_said_nothing_is_short() -> None:
    out = Console(file=StringIO(), width=80)

    show_worker(out, pb.Worker(worker_id="w"), "away")

    shown = out.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO
    assert "accuracy" not in shown
    assert "battery" not in shown
    assert "- down, - up" in shown


def test_view_steers_no_terminal() -> None:
    out = Console(file=StringIO(), width=80)
    rude = pi()
    rude.heartbeat.pause_reason = "\x1b[2Jgone"

    show_worker(out, rude, worker_state(rude))

    assert "\x1b" not in out.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO
