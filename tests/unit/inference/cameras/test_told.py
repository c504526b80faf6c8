from __future__ import annotations

from fedfleet_inference_api.cameras.config import Camera, Zone
from fedfleet_inference_api.cameras.secrets import Secret
from fedfleet_inference_api.cameras.seen import CameraEvent, Seen
from fedfleet_inference_api.cameras.told import ClassTeller, TrackTeller

MODEL = {"name": "shapes", "version": 3, "round": 3, "digest": "ab"}
NEWER = MODEL | {"version": 4}
YARD = Zone(name="yard", points=((0, 0), (1, 0), (1, 1)))


def camera(**fields: object) -> Camera:
    return Camera(name="door", url=Secret("rtsp://192.0.2.1/"), **fields)  # type: ignore[arg-type]


def seen(
    x: float = 0.2, *, track: int = 1, label: str = "cat", zones: tuple[str, ...] = ()
) -> Seen:
    box = (x, 0.4, x + 0.2, 0.6)
    return Seen(label=label, index=0, score=0.91234, box=box, track=track, zones=zones)


def kinds(events: list[CameraEvent]) -> list[tuple[str, object]]:
    return [(event.kind, event.fields["track"]) for event in events]


def test_a_track_is_told_once_when_it_comes_and_once_when_it_goes():
    teller = TrackTeller(camera())

    (started,) = teller.tell([seen()], {1}, 10.0, MODEL)
    assert teller.tell([seen()], {1}, 12.0, MODEL) == []
    assert teller.tell([], {1}, 13.0, MODEL) == []  # out of sight
    (ended,) = teller.tell([], set(), 14.0, NEWER)
    assert teller.tell([], set(), 15.0, NEWER) == []

    assert (started.kind, ended.kind) == ("track_started", "track_ended")
    assert (started.camera, started.at_s, ended.at_s) == ("door", 10.0, 14.0)
    assert started.fields == {
        "label": "cat",
        "score": 0.9123,
        "box": [0.2, 0.4, 0.4, 0.6],
        "track": 1,
        "zones": [],
    }
    assert ended.fields == started.fields
    assert ended.model == MODEL  # which saw it; the newer one has not


def test_a_track_that_moves_is_told_once_a_second():
    teller = TrackTeller(camera())
    teller.tell([seen(0.2)], {1}, 10.0, MODEL)

    told = [teller.tell([seen(0.2 + 0.05 * n)], {1}, 10 + n / 10, MODEL) for n in range(31)]

    times = [events[0].at_s for events in told if events]
    assert times == [11.0, 12.0, 13.0]
    assert {event.kind for events in told for event in events} == {"track_moved"}


def test_trembling_is_no_movement_and_another_class_is():
    teller = TrackTeller(camera())
    teller.tell([seen(0.2)], {1}, 10.0, MODEL)

    assert teller.tell([seen(0.205)], {1}, 12.0, MODEL) == []
    assert kinds(teller.tell([seen(0.205, label="dog")], {1}, 13.0, MODEL)) == [("track_moved", 1)]


def test_where_there_are_zones_a_track_is_told_when_it_enters_one_and_when_it_leaves():
    teller = TrackTeller(camera(zones=(YARD,)))
    inside = {"zones": ("yard",)}

    assert teller.tell([seen(0.1)], {1}, 10.0, MODEL) == []
    assert kinds(teller.tell([seen(0.2, **inside)], {1}, 11.0, MODEL)) == [("track_started", 1)]
    assert kinds(teller.tell([seen(0.5)], {1}, 13.0, MODEL)) == [("track_moved", 1)]
    assert teller.tell([seen(0.8)], {1}, 15.0, MODEL) == []  # outside nobody cares
    assert kinds(teller.tell([], set(), 16.0, MODEL)) == [("track_ended", 1)]


def test_a_track_that_never_was_in_a_zone_does_not_end_either():
    teller = TrackTeller(camera(zones=(YARD,)))
    teller.tell([seen()], {1}, 10.0, MODEL)

    assert teller.tell([], set(), 11.0, MODEL) == []


def test_ends_are_told_before_beginnings():
    teller = TrackTeller(camera())
    teller.tell([seen(track=1), seen(track=2)], {1, 2}, 10.0, MODEL)

    events = teller.tell([seen(track=3)], {3}, 11.0, MODEL)

    assert kinds(events) == [("track_ended", 1), ("track_ended", 2), ("track_started", 3)]


def test_a_class_is_told_when_it_changes_for_good_and_now_and_then():
    teller = ClassTeller(camera(look_every_s=10.0))
    box = (0.0, 0.0, 0.5, 0.5)

    def told(label: str, at_s: float) -> list[CameraEvent]:
        return teller.tell([(label, 0.75), ("other", 0.25)], box, at_s, MODEL)

    (first,) = told("cat", 0.0)
    assert told("cat", 1.0) == []
    assert told("dog", 2.0) == []  # once may be a slip
    assert told("cat", 3.0) == []
    assert told("dog", 4.0) == []
    (changed,) = told("dog", 5.0)
    assert told("dog", 14.9) == []
    (again,) = told("dog", 15.0)

    assert first.kind == "classified"
    assert first.model == MODEL
    assert first.fields == {
        "top5": [
            {"label": "cat", "probability": 0.75},
            {"label": "other", "probability": 0.25},
        ],
        "box": [0.0, 0.0, 0.5, 0.5],
        "zones": [],
    }
    assert [event.fields["top5"][0]["label"] for event in (changed, again)] == ["dog", "dog"]
