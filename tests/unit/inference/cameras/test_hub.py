from __future__ import annotations

import asyncio
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import Unavailable
from fedfleet_inference_api.cameras.hub import EventHub, Reader, Told
from fedfleet_inference_api.cameras.seen import CameraEvent

PATIENCE_S = 10.0


def event(number: int = 0, *, camera: str = "yard", kind: str = "track_started") -> CameraEvent:
    return CameraEvent(camera=camera, at_s=1.5, kind=kind, fields={"number": number})


def hub_at_zero(**options: int) -> EventHub:
    return EventHub(now=lambda: 1.0, **options)  # ids from 1001 on


def numbers(told: list[Told] | None) -> list[object]:
    assert told is not None
    return [one.event.fields.get("number", one.event.kind) for one in told]


async def read(reader: Reader, count: int) -> list[Told]:
    """So many events, in as many batches as they come."""
    found: list[Told] = []
    while len(found) < count:
        batch = await reader.next(PATIENCE_S)
        assert batch
        found += batch
    return found


def test_hub_numbers_events_and_keeps_the_newest():
    hub = hub_at_zero(kept=3)

    ids = [hub.publish(event(number)).event_id for number in range(5)]

    assert ids == [1001, 1002, 1003, 1004, 1005]
    assert [one.fields["number"] for one in hub.after(0)] == [2, 3, 4]
    assert [one.event_id for one in hub.after(1003)] == [1004, 1005]
    assert hub.after(1005) == []
    assert [one.event_id for one in hub.after(1003, limit=1)] == [1004]


def test_hub_begins_above_every_id_of_the_life_before():
    before = EventHub(now=lambda: 100.0)
    last = [before.publish(event()).event_id for _ in range(50)][-1]

    after = EventHub(now=lambda: 101.0)

    assert after.publish(event()).event_id > last


def test_event_is_told_as_one_line_of_json_with_its_model():
    hub = hub_at_zero()
    model = {"name": "shapes", "version": 3}
    hub.publish(CameraEvent(camera="a\nb", at_s=1.23456, kind="classified", fields={}, model=model))

    (told,) = hub.told_after(0, 10)

    assert "\n" not in told.text
    assert json.loads(told.text) == {
        "id": 1001,
        "at_s": 1.235,
        "kind": "classified",
        "camera": "a\nb",
        "fields": {},
        "model": model,
    }


async def test_reader_gets_what_comes_after_it_began():
    hub = hub_at_zero()
    hub.publish(event(0))
    with hub.subscribe() as reader:
        hub.publish(event(1))
        hub.publish(event(2))

        assert numbers(await read(reader, 2)) == [1, 2]
        assert await reader.next(0.001) == []


@pytest.mark.parametrize(
    ("after_id", "expected"),
    [(0, [2, 3, 4]), (1003, [3, 4]), (1002, [2, 3, 4]), (1001, ["gap", 2, 3, 4])],
)
async def test_reader_catches_up_from_an_id(after_id, expected):
    hub = hub_at_zero(kept=3)
    for number in range(5):
        hub.publish(event(number))

    with hub.subscribe(after_id) as reader:
        told = await read(reader, len(expected))

    assert numbers(told) == expected
    if expected[0] == "gap":
        assert told[0].event.fields == {"lost": 1}
        assert told[0].event.event_id == 1002  # who goes on after the gap misses nothing more


@pytest.mark.parametrize("after_id", [7, 5000])
async def test_reader_of_another_life_is_told_of_a_gap_and_gets_what_is_kept(after_id):
    hub = hub_at_zero()
    hub.publish(event(1))

    with hub.subscribe(after_id) as reader:
        told = await read(reader, 2)

    assert numbers(told) == ["gap", 1]
    assert told[0].event.fields == {}


async def test_slow_reader_loses_its_oldest_and_is_told_how_many():
    hub = hub_at_zero(kept=4)
    with hub.subscribe() as slow, hub.subscribe() as fast:
        seen = []
        for number in range(10):
            hub.publish(event(number))
            seen += await read(fast, 1)
        told = await read(slow, 5)

    assert numbers(seen) == list(range(10))
    assert numbers(told) == ["gap", 6, 7, 8, 9]
    assert told[0].event.fields == {"lost": 6}


async def test_readers_on_the_loop_hear_from_threads():
    hub = hub_at_zero(kept=1000)
    writers = [
        threading.Thread(target=lambda: [hub.publish(event(n)) for n in range(100)])
        for _ in range(4)
    ]
    with hub.subscribe() as reader:
        for writer in writers:
            writer.start()
        told = await read(reader, 400)
    for writer in writers:
        writer.join()

    assert [one.event.event_id for one in told] == list(range(1001, 1401))


async def test_call_that_comes_after_its_events_were_taken_is_no_news():
    hub = hub_at_zero()
    with hub.subscribe() as reader:
        hub.publish(event(1))  # the loop is called, and comes to it only when it has nothing to do
        assert numbers(await reader.next(PATIENCE_S)) == [1]
        waiting = asyncio.ensure_future(reader.next(PATIENCE_S))
        for _ in range(5):
            await asyncio.sleep(0)

        assert not waiting.done()
        hub.publish(event(2))
        assert numbers(await waiting) == [2]


async def test_close_ends_readers_that_wait_and_lets_no_one_in():
    hub = hub_at_zero()
    with hub.subscribe() as reader:
        waiting = asyncio.ensure_future(reader.next(PATIENCE_S))
        await asyncio.sleep(0)
        threading.Thread(target=hub.close).start()

        assert await waiting is None
        assert await reader.next(PATIENCE_S) is None
        with pytest.raises(Unavailable), hub.subscribe():
            pass


async def test_readers_are_bounded():
    hub = hub_at_zero(most_readers=2)
    with hub.subscribe(), hub.subscribe():
        with pytest.raises(Unavailable, match="2 callers"), hub.subscribe():
            pass
        assert hub.readers == 2
    assert hub.readers == 0


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [5]), (2, [3, 5]), (9, [1, 3, 5])])
async def test_place_before_counts_only_what_is_wanted(count, expected):
    hub = hub_at_zero()
    for number in range(6):
        hub.publish(event(number))

    def is_odd(one: CameraEvent) -> bool:
        return one.fields["number"] % 2 == 1

    place = hub.place_before(count, is_odd)

    assert [one.fields["number"] for one in hub.after(place) if is_odd(one)] == expected


def test_listener_is_called_in_the_order_of_ids_and_after_hearing_no_more_than_it_asked():
    hub = hub_at_zero()
    heard: list[int] = []
    hub.publish(event())
    hub.listen(lambda one, text: heard.append(one.event_id))
    threads = [
        threading.Thread(target=lambda: [hub.publish(event()) for _ in range(50)]) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert heard == list(range(1002, 1152))


@given(
    kept=st.integers(1, 5),
    steps=st.lists(st.one_of(st.just("read"), st.integers(1, 4)), max_size=20),
)
def test_reader_gets_each_event_once_or_hears_that_it_is_lost(kept, steps):
    async def check() -> None:
        hub = hub_at_zero(kept=kept)
        published = accounted = 0
        with hub.subscribe() as reader:
            for step in (*steps, "read"):
                if step != "read":
                    for _ in range(step):
                        hub.publish(event(published))
                        published += 1
                    continue
                for told in await reader.next(0) or []:
                    if told.event.kind == "gap":
                        accounted += told.event.fields["lost"]
                    else:
                        assert told.event.fields["number"] == accounted
                        accounted += 1
        assert accounted == published

    asyncio.run(check())


def test_number_that_json_does_not_have_is_told_to_nobody():
    hub = hub_at_zero()

    with pytest.raises(ValueError, match="not JSON compliant"):
        hub.publish(CameraEvent(camera="yard", at_s=1.0, kind="x", fields={"score": float("nan")}))

    assert hub.after(0) == []
    assert hub.publish(event()).event_id == 1001
