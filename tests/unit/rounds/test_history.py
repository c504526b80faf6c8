from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from samples import header

from fedfleet.rounds.history import RMS_LOSS, History, Seen, split_history
from fedfleet.types import UpdateHeader
from fedfleet.wire.weights import decode_arrays, encode_arrays

workers = st.text("abc-._019", min_size=1, max_size=6)
number = st.floats(0, 1e9)


def report(
    worker_id: str, *, loss: float = 1.0, rms_loss: float = 2.0, weight: float = 10.0
) -> UpdateHeader:
    metrics = {"train_loss": loss, RMS_LOSS: rms_loss}
    return header(worker_id=worker_id, weight=weight, metrics=metrics)


def test_history_keeps_what_a_round_reported_and_who_was_asked_in_vain() -> None:
    history = History().after(1, ["a", "b"], [report("a", loss=0.5, weight=7.0)], {"a": 3.5})

    assert history.of("a") == Seen(1, 1, 1, 0.5, 2.0, 7.0, 3.5, 3.5)
    asked = history.of("b")
    assert (asked.asked, asked.delivered, asked.last) == (1, 0, 1)
    assert math.isnan(asked.loss)
    assert history.of("nobody").asked == 0
    assert history.of("a").utility == 14.0
    assert asked.utility == 0.0


def test_history_keeps_the_last_report_of_a_worker_that_fails_later() -> None:
    history = History().after(1, ["a"], [report("a", loss=0.5)], {"a": 3.0})

    history = history.after(4, ["a"], [], {})

    assert history.of("a") == Seen(2, 1, 4, 0.5, 2.0, 10.0, 3.0, 3.0)


def test_history_expects_the_mean_of_the_durations_the_newest_with_half_of_the_weight() -> None:
    history = History().after(1, ["a"], [report("a")], {"a": 8.0})
    history = history.after(2, ["a"], [report("a")], {"a": 4.0})
    history = history.after(3, ["a"], [report("a")], {})  # nobody measured

    assert history.of("a").expected_s == 6.0
    assert history.of("a").duration_s == 0.0


def test_history_expects_no_less_than_a_worker_was_waited_for_in_vain() -> None:
    history = History().after(1, ["a", "b"], [report("a")], {"a": 4.0, "b": 9.0})
    assert (history.of("b").expected_s, history.of("b").duration_s) == (9.0, 0.0)

    history = history.after(2, ["a", "b"], [], {"a": 9.0, "b": 3.0})
    assert (history.of("a").expected_s, history.of("b").expected_s) == (9.0, 9.0)
    assert history.of("a").duration_s == 4.0  # of its last update

    # Asked in an earlier round of an asynchronous run, and late only now.
    history = history.after(3, [], [], {"a": 20.0})
    assert (history.of("a").expected_s, history.of("a").asked) == (20.0, 2)


def test_history_of_an_older_release_has_no_expected_durations() -> None:
    memory = History().after(1, ["a"], [report("a")], {"a": 4.0}).to_memory()
    memory["selection.seen"] = memory["selection.seen"][:, :-1]

    _, back = split_history(memory)

    assert (back.of("a").duration_s, back.of("a").expected_s) == (4.0, 0.0)


def test_history_of_a_round_is_the_utility_of_those_that_were_known_before() -> None:
    history = History().after(1, ["a", "b"], [report("a"), report("b")], {})
    history = history.after(2, ["a", "c"], [report("a", rms_loss=3.0), report("c")], {})
    history = history.after(3, ["c", "d"], [report("d")], {})

    assert history.utility == (0.0, 30.0, 0.0)


def test_history_counts_an_unknown_size_as_the_mean_of_the_known() -> None:
    history = History().after(1, "ab", [report("a", weight=2.0), report("b", weight=4.0)], {})

    assert history.samples("abc") == {"a": 2.0, "b": 4.0, "c": 3.0}
    assert history.samples("xy") == {"x": 1.0, "y": 1.0}


def test_history_takes_no_loss_that_is_none() -> None:
    for loss in (math.nan, math.inf, -1.0):
        seen = History().after(1, "a", [report("a", loss=loss, rms_loss=loss)], {}).of("a")
        assert math.isnan(seen.loss)
        assert seen.utility == 0.0


def as_floats(seen: Mapping[str, Seen]) -> dict[str, Seen]:
    """As they are stored: in order, whole numbers too as floats."""
    return {name: Seen(*map(float, astuple(seen[name]))) for name in sorted(seen)}


@given(
    st.lists(
        st.dictionaries(workers, st.none() | st.tuples(number, number, number), max_size=4),
        max_size=4,
    )
)
def test_history_comes_back_from_the_store_as_it_was(
    rounds: list[dict[str, tuple[float, float, float] | None]],
) -> None:
    history = History()
    for round, asked in enumerate(rounds, 1):
        headers = [
            report(name, loss=said[0], rms_loss=said[1], weight=said[2] + 1)
            for name, said in asked.items()
            if said
        ]
        history = history.after(round, asked, headers, dict.fromkeys(asked, 0.5))
    memory = {"fedavgm.v": np.arange(3.0), **history.to_memory()}

    own, back = split_history(decode_arrays(encode_arrays(memory)))

    assert list(own) == ["fedavgm.v"]
    assert repr(back.seen) == repr(as_floats(history.seen))
    assert list(back.utility) == list(history.utility)
    assert repr(split_history(back.to_memory())[1].seen) == repr(back.seen)
