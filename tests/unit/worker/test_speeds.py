from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fedfleet.errors import AssignmentClosed, OutOfMemory, ProcessDied, StoreUnavailable
from fedfleet.training.level_probe import LevelFigures, ProbeTask
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet_worker import speeds as speeds_module
from fedfleet_worker.speeds import MODELS, TRIES, Speeds

RECIPE = """
name = "speeds"
[model]
architecture = "mlp"
hidden = [{hidden}]
[data]
dataset = "synthetic"
[training]
threads = 1
[levels]
rates = [1.0, 0.5]
{levels}
[rounds]
rounds = 1
cohort = 1
"""
MEASURED = 'assignment = "measured"\ntarget_s = 5.0'


def assignment(levels: str = MEASURED, hidden: int = 8) -> pb.Assignment:
    return pb.Assignment(recipe=RECIPE.format(levels=levels, hidden=hidden))


class Probe:
    """In the place of a measurement: says other figures each time."""

    def __init__(self) -> None:
        self.tasks: list[ProbeTask] = []

    def __call__(self, task: ProbeTask, cancelled: Callable[[], bool]) -> Sequence[LevelFigures]:
        self.tasks.append(task)
        if cancelled():
            raise AssignmentClosed("cancelled")
        return [
            LevelFigures(
                level=level,
                rate=rate,
                parameters=9,
                samples_per_s=len(self.tasks) * 100.0 / rate,
                memory_bytes=1000,
            )
            for level, rate in (("a", 1.0), ("b", 0.5))
        ]


class Kept:
    """A worker's figures, with what they were measured by and how often there was news."""

    def __init__(self, folder: Path, **settings: int) -> None:
        self.probe = Probe()
        self.news = 0
        self.speeds = Speeds(folder, changed=self._count, measure=self.probe, **settings)

    def _count(self) -> None:
        self.news += 1

    def look(self, one: pb.Assignment, *, cancelled: bool = False) -> None:
        self.speeds.look(one, lambda: cancelled)

    @property
    def rates(self) -> dict[str, float]:
        return {one.level: one.samples_per_s for one in self.speeds.known}


def test_speeds_are_measured_at_the_first_assignment_of_a_run_that_asks(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    assert kept.speeds.known == ()

    kept.look(assignment())
    kept.look(assignment())

    assert len(kept.probe.tasks) == 1
    assert kept.probe.tasks[0].rates == (1.0, 0.5)
    assert kept.rates == {"a": 100.0, "b": 200.0}
    assert {one.model_digest for one in kept.speeds.known} == {kept.probe.tasks[0].digest}
    assert kept.news == 1
    assert kept.speeds.take_news() == kept.speeds.known
    assert kept.speeds.take_news() == ()


@pytest.mark.parametrize("levels", ['assignment = "fixed"', 'assignment = "dynamic"'])
def test_speeds_are_not_measured_where_nobody_asks(levels: str, tmp_path: Path) -> None:
    kept = Kept(tmp_path)

    kept.look(assignment(levels))
    kept.look(pb.Assignment(recipe=assignment().recipe.split("[levels]")[0] + "[rounds]\n"))

    assert kept.probe.tasks == []


def test_speeds_outlast_the_process(tmp_path: Path) -> None:
    Kept(tmp_path).look(assignment())

    again = Kept(tmp_path)
    assert again.rates == {"a": 100.0, "b": 200.0}
    again.look(assignment())

    assert again.probe.tasks == []
    assert again.news == 0


def test_speeds_of_each_model_are_kept_and_the_last_ones_told(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.look(assignment(hidden=8))
    kept.look(assignment(hidden=16))
    assert kept.rates["a"] == 200.0

    kept.look(assignment(hidden=8))

    assert kept.rates["a"] == 100.0
    assert (len(kept.probe.tasks), kept.news) == (2, 3)
    assert Kept(tmp_path).rates["a"] == 100.0


def test_speeds_of_old_models_are_forgotten(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    for hidden in range(4, 4 + 2 * (MODELS + 3), 2):
        kept.look(assignment(hidden=hidden))

    assert len(list(tmp_path.iterdir())) == MODELS


@pytest.mark.parametrize("changed", [{"threads": 3}, {"limit_bytes": 1 << 30}], ids=str)
def test_speeds_with_other_settings_are_measured_anew(
    changed: dict[str, int], tmp_path: Path
) -> None:
    Kept(tmp_path).look(assignment())

    more = Kept(tmp_path, **changed)
    assert more.speeds.known == ()
    more.look(assignment())

    assert len(more.probe.tasks) == 1


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"device": 1}', '{"levels": [{"level": 3}]}', "\xff"]
)
def test_speeds_that_were_torn_are_measured_anew(damage: str, tmp_path: Path) -> None:
    Kept(tmp_path).look(assignment())
    [path] = tmp_path.iterdir()
    path.write_bytes(damage.encode("latin-1"))

    again = Kept(tmp_path)
    again.look(assignment())

    assert len(again.probe.tasks) == 1
    assert again.rates == {"a": 100.0, "b": 200.0}


def test_speeds_that_cannot_be_measured_do_not_keep_the_worker_from_its_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def measure(task: ProbeTask, cancelled: Callable[[], bool]) -> Sequence[LevelFigures]:
        raise OutOfMemory("too small")

    speeds = Speeds(tmp_path, measure=measure)
    with caplog.at_level(logging.WARNING):
        speeds.look(assignment(), lambda: False)
        speeds.look(assignment(), lambda: False)
        speeds.look(pb.Assignment(recipe="nonsense"), lambda: False)

    assert [vars(record)["code"] for record in caplog.records] == [
        "OUT_OF_MEMORY",
        "RECIPE_INVALID",
    ]
    assert speeds.known == ()


@pytest.mark.parametrize(
    ("name", "value"), [("accelerator", "another card"), ("training_memory_bytes", 7)]
)
def test_speeds_of_another_device_are_measured_anew(
    name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Kept(tmp_path).look(assignment())
    monkeypatch.setattr(speeds_module, name, lambda *_: value)

    swapped = Kept(tmp_path)

    assert swapped.speeds.known == ()
    swapped.look(assignment())
    assert len(swapped.probe.tasks) == 1


def test_peaks_on_the_processor_are_not_told_beside_an_accelerators_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_processor = pb.Assignment(
        recipe=assignment().recipe.replace("threads = 1", 'threads = 1\ndevice = "cpu"')
    )
    told = []
    for card in ("", "a card"):
        monkeypatch.setattr(speeds_module, "accelerator", lambda card=card: card)
        for one in (on_processor, assignment()):
            kept = Kept(tmp_path / card / str(len(one.recipe)))
            kept.look(one)
            told.append({speed.memory_bytes for speed in kept.speeds.known})

    assert told == [{1000}, {1000}, {0}, {1000}]


@pytest.mark.parametrize(
    "fault",
    [ProcessDied("killed by a signal"), OSError(errno.ENOSPC, "No space left on device")],
    ids=["died", "disk full"],
)
def test_probe_that_may_go_better_is_tried_again_but_not_for_ever(
    fault: Exception, tmp_path: Path
) -> None:
    probe, faults = Probe(), [fault]

    def measure(task: ProbeTask, cancelled: Callable[[], bool]) -> Sequence[LevelFigures]:
        figures = probe(task, cancelled)
        if faults:
            raise faults[-1]
        return figures

    hopeless = Speeds(tmp_path / "hopeless", measure=measure)
    for _ in range(TRIES + 2):
        hopeless.look(assignment(), lambda: False)
    assert len(probe.tasks) == TRIES

    speeds = Speeds(tmp_path / "mended", measure=measure)
    speeds.look(assignment(), lambda: False)
    faults.clear()
    for _ in range(2):
        speeds.look(assignment(), lambda: False)

    assert len(probe.tasks) == TRIES + 2
    assert speeds.known


def test_speeds_that_the_disk_does_not_take_are_told_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a file").touch()
    kept = Kept(tmp_path / "a file" / "speeds")

    kept.look(assignment())
    kept.look(assignment())

    assert kept.rates == {"a": 100.0, "b": 200.0}
    assert (len(kept.probe.tasks), kept.news) == (1, 1)
    assert caplog.messages == ["speeds_not_kept"]


def test_speeds_that_were_read_are_told_where_the_disk_has_become_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Kept(tmp_path).look(assignment(hidden=8))
    Kept(tmp_path).look(assignment(hidden=16))
    again = Kept(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    again.look(assignment(hidden=8))

    assert again.probe.tasks == []
    assert again.news == 1


def test_folder_of_speeds_that_cannot_be_read_is_one_line_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)

    with pytest.raises(StoreUnavailable, match="Permission denied"):
        Speeds(tmp_path)


def test_probe_of_a_cancelled_assignment_is_given_up(tmp_path: Path) -> None:
    kept = Kept(tmp_path)

    with pytest.raises(AssignmentClosed):
        kept.look(assignment(), cancelled=True)
    kept.look(assignment())

    assert len(kept.probe.tasks) == 2
    assert kept.rates == {"a": 200.0, "b": 400.0}
