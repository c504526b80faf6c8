"""Who is there when: by the file and the seed alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import SettingInvalid
from fedfleet.sim.traces import ALWAYS, DAY_S, Presence, Times, daily, parse_traces, times_of

FLEET = tuple(f"worker-{i}" for i in range(10))
VANISH = "[[traces]]\nshare = 0.3\nonline_s = [[0.0, 100.0]]\n"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "traces"),
        ("traces = 3", "traces"),
        ("traces = [1]", r"traces\[0\] = 1: must be a table"),
        ("[[traces", "TOML"),
        ("x = 1\n" + VANISH, "nothing else"),
        (VANISH.replace("share = 0.3", ""), "workers: set either it or share"),
        (VANISH.replace("0.3", "1.5"), "share = 1.5"),
        (VANISH + VANISH.replace("0.3", "0.8"), "add up to 1.1"),
        (VANISH.replace("[0.0, 100.0]", "[5.0, 5.0]"), r"\[5.0, 5.0\] must be \[on, off\]"),
        (VANISH.replace("[0.0, 100.0]", "[5.0]"), r"\[5.0\] must be \[on, off\]"),
        (VANISH.replace("[0.0, 100.0]", "[0.0, 9.0], [8.0, 10.0]"), r"\[8.0, 10.0\]"),
        (VANISH + "period_s = 50.0\n", "must end by period_s"),
        (VANISH + "period_s = 0.0\n", "period_s = 0.0"),
        (VANISH + "peak_s = 5.0\n", "peak_s: is of daily_ratio"),
        (VANISH + "daily_ratio = 0.5\n", "online_s: set either it or daily_ratio"),
        ("[[traces]]\nshare = 0.3\ndaily_ratio = 1.0\n", "daily_ratio = 1.0"),
        ("[[traces]]\nshare = 0.3\ndaily_ratio = 0.5\nperiod_s = 5.0\n", "period_s: with"),
        ('[[traces]]\nworkers = ["a"]\nonline_s = []\n' * 2, "named in two"),
        (VANISH.replace("online_s", "online"), "online"),
    ],
)
def test_parse_traces_names_what_is_wrong(text: str, word: str) -> None:
    with pytest.raises(SettingInvalid, match=word):
        parse_traces(text)


def test_times_are_for_a_share_of_who_is_not_named() -> None:
    text = VANISH + '[[traces]]\nworkers = ["worker-3"]\nonline_s = []\n'

    found = times_of(parse_traces(text), FLEET, 4)

    assert found["worker-3"] == Times(())
    assert list(found) == list(FLEET)
    assert sum(one == Times(((0.0, 100.0),)) for one in found.values()) == 3
    assert sum(one == ALWAYS for one in found.values()) == 6
    assert found == times_of(parse_traces(text), FLEET, 4)
    assert found != times_of(parse_traces(text), FLEET, 5)
    with pytest.raises(SettingInvalid, match="worker-3: not in the fleet"):
        times_of(parse_traces(text), FLEET[:3], 4)


def test_times_of_several_shares_leave_nobody_out() -> None:
    text = "".join(VANISH.replace("0.3", "0.25").replace("100.0", str(n)) for n in range(1, 5))

    found = times_of(parse_traces(text), FLEET, 4)

    assert ALWAYS not in found.values()


# Parts of a period, which may touch.
edges = st.lists(st.integers(0, 400), unique=True, max_size=8).flatmap(
    lambda found: st.lists(st.booleans(), min_size=len(found), max_size=len(found)).map(
        lambda twice: _paired(sorted(found), twice)
    )
)


def _paired(found: list[int], twice: list[bool]) -> list[int]:
    """Edges in order, some of them an end and a beginning."""
    paired: list[int] = []
    for edge, is_both in zip(found, twice, strict=True):
        paired += [edge, edge] if is_both and len(paired) % 2 else [edge]
    return paired[: len(paired) // 2 * 2]


@st.composite
def periodic(draw: st.DrawFn) -> Times:
    found = [edge / 4 for edge in draw(edges)]
    pairs = tuple(zip(found[::2], found[1::2], strict=True))
    period_s = draw(st.sampled_from([math.inf, 100.0, 117.3, *found[-1:]]))
    return Times(pairs, period_s, draw(st.sampled_from([0.0, -33.1])))


@given(periodic(), st.floats(0, 300))
def test_changes_are_all_there_are(times: Times, after_s: float) -> None:
    there, at_s = times.is_there(after_s), after_s
    for changed_s, comes in times.changes(after_s):
        if changed_s > 900:
            break
        assert changed_s > at_s
        assert comes != there
        middle_s = (at_s + changed_s) / 2
        assert times.is_there(middle_s) == there
        at_s, there = changed_s, comes
    else:
        assert all(times.is_there(at_s + more_s) == there for more_s in (1.0, 1e3, 1e6))


def test_workers_that_are_always_there_never_change() -> None:
    assert list(ALWAYS.changes(0.0)) == []
    assert list(Times(((0.0, 9.0),), 9.0).changes(3.0)) == []


def test_presence_says_who_has_gone_and_who_is_there() -> None:
    presence = Presence(
        {"a": ALWAYS, "b": Times(((0.0, 10.0), (20.0, 30.0))), "c": Times(((5.0, math.inf),))}
    )

    assert (presence.workers, presence.next_s) == (("a", "b"), 5.0)
    assert presence.move_on(5.0) == frozenset()
    assert (presence.workers, presence.next_s) == (("a", "b", "c"), 10.0)
    assert presence.move_on(25.0) == {"b"}  # for ten seconds
    assert presence.workers == ("a", "b", "c")
    assert presence.move_on(30.0) == {"b"}
    assert (presence.workers, presence.next_s) == (("a", "c"), math.inf)


def test_workers_stay_where_one_part_ends_as_the_next_begins() -> None:
    times = Times(((0.0, 100.0), (100.0, 200.0)))
    presence = Presence({"a": times})

    assert list(times.changes(0.0)) == [(200.0, False)]
    assert presence.move_on(150.0) == frozenset()
    assert list(Times(((0.0, 50.0), (50.0, 100.0)), 100.0).changes(0.0)) == []


def test_presence_begins_where_it_is_told() -> None:
    presence = Presence({"a": Times(((0.0, 10.0), (20.0, 30.0)))}, at_s=10.0)

    assert (presence.workers, presence.next_s) == ((), 20.0)


def test_daily_times_are_most_often_at_their_peak() -> None:
    fleet = [f"worker-{i}" for i in range(400)]
    times = [daily(name, 3, 0.25, peak_s=2 * 3600, spread_s=3 * 3600) for name in fleet]

    def there(hour: float, day: int = 0) -> float:
        at_s = day * DAY_S + hour * 3600
        return sum(one.is_there(at_s) for one in times) / len(times)

    # A part of six hours: within three of a normal middle with a deviation of three.
    assert there(2) == pytest.approx(0.68, abs=0.07)
    assert there(2, day=5) == there(2)
    assert there(14) < 0.01
    hours = [there(hour / 4) for hour in range(96)]
    assert sum(hours) / 96 == pytest.approx(0.25, abs=0.01)
