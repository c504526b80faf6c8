"""The model's thread with real versions and a real event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from serving import CARD, PATIENCE_S, publish
from starlette.requests import ClientDisconnect

from fedfleet.errors import TimedOut, Unavailable, VersionInvalid
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet_inference_api.backends.backend import Answers
from fedfleet_inference_api.metrics import Metrics
from fedfleet_inference_api.predictor import CAMERA_PLACES, Predictor
from fedfleet_inference_api.servable import Servable, load_servable

IMAGES = np.random.default_rng(1).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path}") as opened:
        yield opened


@pytest.fixture
def servable(store) -> Servable:
    return load_servable(store.blobs, publish(store, 1), "latest")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def predictor(metrics) -> Iterator[Predictor]:
    made = Predictor(threads=1, max_pending=64, max_batch=8, metrics=metrics)
    yield made
    made.close()


class Gate:
    """A backend that notes its batches and computes when it is let, with another's answers."""

    name = "gate"

    def __init__(self, servable: Servable) -> None:
        self._backend = servable.backend
        self.batches: list[int] = []
        self.entered = threading.Event()
        self.let = threading.Event()

    def run(self, images: np.ndarray) -> Answers:
        self.batches.append(len(images))
        self.entered.set()
        assert self.let.wait(PATIENCE_S)
        return self._backend.run(images)


@pytest.fixture
def gate(servable) -> Gate:
    return Gate(servable)


@pytest.fixture
def gated(servable, gate) -> Iterator[Servable]:
    yield replace(servable, backend=gate)
    gate.let.set()


async def test_forward_of_one_image_is_what_the_version_answers(predictor, servable):
    forwarded = await predictor.forward(servable, IMAGES[0])

    assert np.array_equal(forwarded.answer, servable.answers(IMAGES[:1])[0])
    assert forwarded.batch == 1
    assert forwarded.forward_s > 0


async def test_forward_computes_together_what_came_while_the_model_was_busy(
    predictor, gated, gate, servable
):
    first = asyncio.ensure_future(predictor.forward(gated, IMAGES[0]))
    await asyncio.to_thread(gate.entered.wait)
    rest = [asyncio.ensure_future(predictor.forward(gated, image)) for image in IMAGES[1:12]]
    await asyncio.sleep(0)
    gate.let.set()

    answers = [await one for one in (first, *rest)]

    assert gate.batches == [1, 8, 3]
    assert [one.batch for one in answers] == [1, *[8] * 8, *[3] * 3]
    want = servable.answers(IMAGES[:12])
    for one, row in zip(answers, want, strict=True):
        assert np.allclose(one.answer, row, atol=1e-5)


async def test_forward_whose_deadline_passed_is_not_computed(predictor, gated, gate, metrics):
    first = asyncio.ensure_future(predictor.forward(gated, IMAGES[0]))
    await asyncio.to_thread(gate.entered.wait)
    late = asyncio.ensure_future(predictor.forward(gated, IMAGES[1], deadline_s=0.0))
    gone = asyncio.ensure_future(predictor.forward(gated, IMAGES[2], is_gone=lambda: True))
    cancelled = asyncio.ensure_future(predictor.forward(gated, IMAGES[3]))
    await asyncio.sleep(0)
    cancelled.cancel()
    gate.let.set()

    await first
    with pytest.raises(TimedOut, match="past its deadline"):
        await late
    with pytest.raises(ClientDisconnect):
        await gone
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert gate.batches == [1]
    text = metrics.render().decode()
    assert 'fedfleet_inference_not_computed_images_total{reason="late"} 1.0' in text
    assert 'fedfleet_inference_not_computed_images_total{reason="gone"} 2.0' in text
    assert "fedfleet_inference_batch_images_count 1.0" in text


async def test_one_image_with_an_answer_that_is_no_number_fails_alone(predictor, servable):
    class Poisoned:
        name = "poisoned"

        def run(self, images: np.ndarray) -> Answers:
            answers = servable.backend.run(images)
            answers[images[:, 0, 0, 0] == 255] = np.nan
            return answers

    poisoned = replace(servable, backend=Poisoned())
    good, bad = np.zeros((1, 8, 8), np.uint8), np.full((1, 8, 8), 255, np.uint8)

    answers = await asyncio.gather(
        *(predictor.forward(poisoned, image) for image in (good, bad, good)),
        return_exceptions=True,
    )

    assert [type(one) for one in answers if isinstance(one, Exception)] == [VersionInvalid]
    assert isinstance(answers[1], VersionInvalid)


async def test_backend_that_breaks_fails_its_batch_and_no_other(predictor, servable):
    class Breaking:
        name = "breaking"

        def run(self, images: np.ndarray) -> Answers:
            raise ZeroDivisionError("broken")

    with pytest.raises(ZeroDivisionError):
        await predictor.forward(replace(servable, backend=Breaking()), IMAGES[0])

    assert (await predictor.forward(servable, IMAGES[0])).batch == 1


async def test_answers_of_another_shape_are_the_versions_fault(predictor, servable):
    other = replace(servable, card=replace(CARD, classes=("a", "b")))

    with pytest.raises(VersionInvalid, match="answers with shape"):
        await predictor.forward(other, IMAGES[0])


async def test_cameras_that_are_full_leave_room_for_callers(predictor, gated, gate):
    first = asyncio.ensure_future(predictor.forward(gated, IMAGES[0]))
    await asyncio.to_thread(gate.entered.wait)
    futures = [predictor.submit(gated, image) for image in IMAGES[:CAMERA_PLACES]]
    with pytest.raises(Unavailable):
        predictor.submit(gated, IMAGES[0])
    caller = asyncio.ensure_future(predictor.forward(gated, IMAGES[1]))
    await asyncio.sleep(0)
    gate.let.set()

    await asyncio.gather(first, caller)
    results = [await asyncio.to_thread(one.result, PATIENCE_S) for one in futures]

    assert {one.batch for one in results} == {8}


async def test_submitted_image_that_is_cancelled_is_not_computed(predictor, gated, gate):
    first = predictor.submit(gated, IMAGES[0])
    await asyncio.to_thread(gate.entered.wait)
    second = predictor.submit(gated, IMAGES[1])
    assert second.cancel()
    gate.let.set()

    await asyncio.to_thread(first.result, PATIENCE_S)
    await predictor.forward(gated, IMAGES[2])

    assert gate.batches == [1, 1]


def test_warm_up_has_its_turn_between_the_batches_of_a_backlog(predictor, gated, gate, servable):
    futures = [predictor.submit(gated, image) for image in IMAGES[:CAMERA_PLACES]]
    assert gate.entered.wait(PATIENCE_S)
    done: list[list[int]] = []
    warm = threading.Thread(
        target=lambda: (predictor.warm_up(servable), done.append(list(gate.batches)))
    )
    warm.start()
    gate.let.set()
    warm.join(PATIENCE_S)
    for future in futures:
        future.result(PATIENCE_S)

    assert done
    assert sum(gate.batches) == CAMERA_PLACES


async def test_close_answers_what_runs_and_refuses_what_waits(servable, gated, gate):
    predictor = Predictor(threads=1, max_pending=64, max_batch=1)
    first = asyncio.ensure_future(predictor.forward(gated, IMAGES[0]))
    await asyncio.to_thread(gate.entered.wait)
    second = asyncio.ensure_future(predictor.forward(gated, IMAGES[1]))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(asyncio.to_thread(predictor.close))
    with pytest.raises(Unavailable):
        await second
    gate.let.set()

    assert (await first).batch == 1
    await closing
    with pytest.raises(Unavailable):
        await predictor.forward(servable, IMAGES[0])


def test_admitted_holds_as_many_places_as_are_asked_for():
    predictor = Predictor(threads=1, max_pending=3)
    try:
        with predictor.admitted(2):
            assert predictor.pending == 2
            with pytest.raises(Unavailable), predictor.admitted(2):
                pass
            with predictor.admitted(1):
                pass
        assert predictor.pending == 0
    finally:
        predictor.close()
