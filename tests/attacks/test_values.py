"""Numbers that no training gives: NaN, infinity, the largest and the smallest there are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks.siege import BOTH_COUNT, DELTA, HONEST, MALLORY, Siege, besieged, flat, refused
from harness import PATIENCE_S, state_of_version

from fedfleet.types import Kind, Section, Update
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1 import types_pb2
from fedfleet.wire.updates import EncodedUpdate, encode_update, header_of

NAN, INF, HUGE, TINY = float("nan"), float("inf"), 1e308, 5e-324
MOST = (1 << 64) - 1

# With running means and variances, and counters.
WITH_STATISTICS = """
name = "tiny"
[model]
architecture = "cnn"
width = 0.04
hidden = 4
norm = "batch"
[data]
dataset = "digits"
partition = "iid"
workers = 2
[training]
threads = 1
[rounds]
rounds = 1
cohort = 1
over_select = 1
[evaluation]
coordinator = false
"""


@pytest.mark.parametrize(
    ("value", "code", "at"),
    [
        (NAN, "UPDATE_NOT_FINITE", 0),
        (NAN, "UPDATE_NOT_FINITE", -1),
        (INF, "UPDATE_NOT_FINITE", -1),
        (-INF, "UPDATE_NOT_FINITE", 0),
        (3e38, "UPDATE_OUT_OF_RANGE", 0),
        (-3e38, "UPDATE_OUT_OF_RANGE", -1),
        (1025.0, "UPDATE_OUT_OF_RANGE", -1),
    ],
)
async def test_value_that_no_training_gives_is_refused_and_the_round_goes_on(
    value: float, code: str, at: int, tmp_path: Path
) -> None:
    async with besieged(tmp_path) as siege:
        delta_P = flat(siege.initial, value, at)

        await refused(code, siege.mallory.upload(siege.update(siege.given, MALLORY, delta_P)))

        assert siege.running.store.journal.updates(siege.run_id, 1) == []
        await siege.holds()


def with_section(siege: Siege, kind: Kind, value: float) -> EncodedUpdate:
    """An update that is right but for one element of a kind."""
    right = siege.update(siege.given, MALLORY, 0.1)
    vectors = {
        Kind.TRAINABLE: np.full_like(siege.initial.trainable, 0.1),
        Kind.STATISTIC: siege.initial.statistics.copy(),
        Kind.COUNTER: siege.initial.counters.copy(),
    }
    assert vectors[kind].size
    vectors[kind][-1] = value
    sections = tuple(Section(one.value, one, vector) for one, vector in vectors.items())
    return encode_update(Update(header_of(right.header), sections))


@pytest.mark.parametrize(
    ("kind", "value", "code"),
    [
        (Kind.STATISTIC, NAN, "UPDATE_NOT_FINITE"),
        (Kind.STATISTIC, INF, "UPDATE_NOT_FINITE"),
        (Kind.STATISTIC, 3e38, "UPDATE_OUT_OF_RANGE"),
        (Kind.STATISTIC, -3e38, "UPDATE_OUT_OF_RANGE"),
        (Kind.COUNTER, (1 << 63) - 1, "UPDATE_OUT_OF_RANGE"),
        (Kind.COUNTER, -(1 << 63), "UPDATE_OUT_OF_RANGE"),
        (Kind.COUNTER, -1, "UPDATE_OUT_OF_RANGE"),
    ],
)
async def test_statistics_and_counters_that_measure_nothing_are_refused(
    kind: Kind, value: float, code: str, tmp_path: Path
) -> None:
    async with besieged(tmp_path, WITH_STATISTICS) as siege:
        await refused(code, siege.mallory.upload(with_section(siege, kind, value)))

        await siege.upload_and_finish()
        state = state_of_version(siege.running.store, "tiny")
        np.testing.assert_array_equal(state.statistics, siege.initial.statistics)
        np.testing.assert_array_equal(state.counters, siege.initial.counters)


BAD_HEADERS: dict[str, Callable[[pb.UpdateHeader], Any]] = {
    "weight NaN": lambda h: setattr(h, "weight", NAN),
    "weight infinite": lambda h: setattr(h, "weight", INF),
    "weight negative": lambda h: setattr(h, "weight", -1.0),
    "weight zero": lambda h: setattr(h, "weight", 0.0),
    "weight of all": lambda h: setattr(h, "weight", HUGE),
    "weight beyond the recipe's": lambda h: setattr(h, "weight", 2.0**20 + 1),
    "learning rate NaN": lambda h: setattr(h, "lr_sum", NAN),
    "learning rate infinite": lambda h: setattr(h, "lr_sum", INF),
    "learning rate negative": lambda h: setattr(h, "lr_sum", -1.0),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
async def test_header_with_a_number_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        update = siege.update(siege.given, MALLORY)
        BAD_HEADERS[name](update.header)

        await refused("UPDATE_INVALID", siege.mallory.upload(update))

        assert siege.running.store.journal.updates(siege.run_id, 1) == []
        await siege.holds()


ODD_HEADERS: dict[str, Callable[[pb.UpdateHeader], Any]] = {
    "weight next to nothing": lambda h: setattr(h, "weight", TINY),
    "steps without end": lambda h: setattr(h, "steps", MOST),
    "learning rate of all": lambda h: setattr(h, "lr_sum", HUGE),
    "metrics NaN": lambda h: h.metrics.update(train_loss=NAN),
    "metrics infinite": lambda h: h.metrics.update(train_loss=-INF),
    "metrics huge": lambda h: h.metrics.update(train_loss=HUGE, train_accuracy=-HUGE),
}


@pytest.mark.parametrize("name", ODD_HEADERS)
async def test_number_that_is_odd_spoils_neither_version_nor_what_is_told_of_it(
    name: str, tmp_path: Path
) -> None:
    async with besieged(tmp_path, BOTH_COUNT) as siege:
        update = siege.update(siege.given, MALLORY, DELTA)
        ODD_HEADERS[name](update.header)
        await siege.mallory.upload(update)

        await siege.upload_and_finish()

        state = state_of_version(siege.running.store, "tiny")
        change = state.trainable - siege.initial.trainable
        np.testing.assert_allclose(change, DELTA, rtol=1e-6)
        await check_told(siege)


async def check_told(siege: Siege) -> None:
    """Whatever is told of the run can be read: as messages, and as JSON that is JSON."""
    shown = await siege.running.show(siege.run_id)
    for value in shown.rounds[0].metrics.values():
        assert np.isfinite(value)
    request = control_pb.GetVersionRequest(model="tiny", version="latest")
    version = (await siege.running.control.GetVersion(request, timeout=PATIENCE_S)).version
    listed = await siege.running.control.ListWorkers(control_pb.ListWorkersRequest())
    assert len(listed.workers) == 2
    texts = [version.metrics_json, version.card_json]
    watch = siege.running.control.WatchRun(control_pb.WatchRunRequest(run_id=siege.run_id))
    texts += [response.event.fields_json async for response in watch]
    for text in texts:
        json.loads(text, parse_constant=not_json)


def not_json(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


# Evaluations

EVALUATED = BOTH_COUNT + '[evaluation]\nworkers = "all"\n'


def evaluation(**more: Any) -> types_pb2.Evaluation:
    """One of ten examples, all of the first class and found, over the synthetic classes."""
    counts = {name: [10] + [0] * 9 for name in ("class_samples", "class_correct")}
    counts["class_predicted"] = counts["class_samples"]
    right = {"samples": 10, "correct": 10, "top5": 10, "loss_sum": 1.0, **counts}
    return types_pb2.Evaluation(**{**right, **more})


def all_counted(count: int) -> dict[str, Any]:
    row = [count] + [0] * 9
    names = ("class_samples", "class_correct", "class_predicted")
    return {**dict.fromkeys(("samples", "correct", "top5"), count), **dict.fromkeys(names, row)}


REFUSED_EVALUATIONS = {
    "loss NaN": {"loss_sum": NAN},
    "loss infinite": {"loss_sum": INF},
    "loss negative": {"loss_sum": -1.0},
    "more correct than examples": {"correct": 11},
    "counts that do not add up": {"samples": MOST},
    "no classes": {"class_samples": []},
}
ODD_EVALUATIONS = {
    "loss of all": {"loss_sum": HUGE},
    "examples without end": all_counted(MOST),
    "loss of all over no example": {**all_counted(0), "loss_sum": HUGE},
}


@pytest.mark.parametrize("name", [*REFUSED_EVALUATIONS, *ODD_EVALUATIONS])
async def test_evaluation_that_cannot_be_spoils_nothing(name: str, tmp_path: Path) -> None:
    recipe = EVALUATED
    classes = classes_of(recipe)
    async with besieged(tmp_path, recipe) as siege:
        for worker, given, who in (
            (siege.mallory, siege.given, MALLORY),
            (siege.honest, siege.asked, HONEST),
        ):
            await worker.upload(siege.update(given, who, DELTA))
        mine, theirs = await siege.mallory.assignment(), await siege.honest.assignment()
        assert mine.kind == theirs.kind == pb.ASSIGNMENT_KIND_EVALUATE

        odd = {**REFUSED_EVALUATIONS, **ODD_EVALUATIONS}[name]
        message = cut(evaluation(**odd), classes)
        report = pb.EvaluationReport(assignment_id=mine.assignment_id, evaluation=message)
        await siege.mallory.send(evaluation=report)
        if name in REFUSED_EVALUATIONS:
            await refused("INVALID_INPUT", siege.mallory.assignment())
            siege.mallory = type(siege.mallory)(siege.insider, MALLORY)
            await siege.mallory.connect()
            mine = await siege.mallory.assignment()  # it is asked again
            failure = pb.AssignmentFailure(assignment_id=mine.assignment_id, code="DATA_EMPTY")
            await siege.mallory.send(failure=failure)
        report = pb.EvaluationReport(
            assignment_id=theirs.assignment_id, evaluation=cut(evaluation(), classes)
        )
        await siege.honest.send(evaluation=report)

        assert (await siege.running.finished(siege.run_id)).code == ""
        await check_told(siege)


def classes_of(recipe: str) -> int:
    from fedfleet.data.catalog import describe
    from fedfleet.rounds.recipe import parse_recipe

    return len(describe(parse_recipe(recipe).data).classes)


def cut(message: types_pb2.Evaluation, classes: int) -> types_pb2.Evaluation:
    """Over as many classes as there are."""
    for name in ("class_samples", "class_correct", "class_predicted"):
        del getattr(message, name)[classes:]
    return message


# What a worker says of its device


async def test_figures_of_a_device_that_cannot_be_are_bounded(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        for value in (NAN, INF, -INF, HUGE, -HUGE, TINY):
            level = pb.LevelSpeed(level="a", samples_per_s=value, memory_bytes=MOST)
            device = pb.DeviceProfile(
                cpu_count=(1 << 32) - 1,
                memory_bytes=MOST,
                samples_per_s=value,
                levels=[level],
                link_down_bytes_per_s=value,
                link_up_bytes_per_s=value,
            )
            again = type(siege.mallory)(siege.insider, MALLORY)
            await again.connect(device=device)
            beat = pb.Heartbeat(
                sent_at_s=value,
                temperature_celsius=value,
                memory_used_bytes=MOST,
                load_average=value,
                battery_ratio=value,
                link_down_bytes_per_s=value,
                link_up_bytes_per_s=value,
                levels=[level],
            )
            await again.send(heartbeat=beat)
            await again.send(progress=pb.AssignmentProgress(done_ratio=value))
            await again.send(hello=pb.Hello(worker_id=MALLORY))
            await refused("INVALID_INPUT", again.cancelled())

            listed = await siege.running.control.ListWorkers(control_pb.ListWorkersRequest())
            for told in doubles(listed):
                assert np.isfinite(told)
                assert abs(told) <= 1e12
        await siege.holds()


def doubles(message: Any) -> list[float]:
    """Every floating-point number of a message."""
    found: list[float] = []
    for field, value in message.ListFields():
        many = value if field.is_repeated else [value]
        for one in many:
            if field.type == field.TYPE_MESSAGE:
                found += doubles(one)
            elif field.type == field.TYPE_DOUBLE:
                found.append(one)
    return found


# What is measured of a round's outcome

MEASURED = WITH_STATISTICS.replace("cohort = 1\nover_select = 1", "cohort = 2") + (
    "[levels]\nrates = [1.0]\n"
)


def measured(siege: Siege, assignment: pb.Assignment, **more: Any) -> pb.StatisticsReport:
    """Statistics of the initial model, over ten examples."""
    right = {
        "samples": 10,
        "statistics": siege.initial.statistics.tolist(),
        "counters": siege.initial.counters.tolist(),
    }
    return pb.StatisticsReport(assignment_id=assignment.assignment_id, **{**right, **more})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda right: {"statistics": [NAN, *right.statistics[1:]]},
        lambda right: {"statistics": [*right.statistics[:-1], INF]},
        lambda right: {"statistics": [-3e38] * len(right.statistics)},
        lambda right: {"statistics": right.statistics[1:]},
        lambda right: {"statistics": [0.0] * 100_000},
        lambda right: {"counters": [-1] * len(right.counters)},
        lambda right: {"counters": [(1 << 63) - 1] * len(right.counters)},
        lambda right: {"samples": 0},
        lambda right: {"samples": MOST},
    ],
)
async def test_measured_statistics_that_cannot_be_do_not_count(
    spoil: Callable[[pb.StatisticsReport], dict[str, Any]], tmp_path: Path
) -> None:
    async with besieged(tmp_path, MEASURED) as siege:
        await siege.mallory.upload(siege.update(siege.given, MALLORY, DELTA))
        await siege.honest.upload(siege.update(siege.asked, HONEST, DELTA))
        mine, theirs = await siege.mallory.assignment(), await siege.honest.assignment()
        assert mine.kind == theirs.kind == pb.ASSIGNMENT_KIND_QUERY

        bad = measured(siege, mine, **spoil(measured(siege, mine)))
        await siege.mallory.send(statistics=bad)
        failed = await siege.running.until(siege.run_id, "assignment_failed")
        await siege.honest.send(statistics=measured(siege, theirs))

        assert json.loads(failed.fields_json)["assignment_id"] == mine.assignment_id
        assert (await siege.running.finished(siege.run_id)).code == ""
        state = state_of_version(siege.running.store, "tiny")
        np.testing.assert_allclose(state.statistics, siege.initial.statistics, rtol=1e-6)
        await check_told(siege)
