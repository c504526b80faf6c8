from __future__ import annotations

import math

import pytest
from samples import header

from fedfleet.rounds.actions import Work
from fedfleet.rounds.card import card_of
from fedfleet.rounds.level_facts import Speed, Told, without_levels
from fedfleet.rounds.machine import Slot, Status
from fedfleet.rounds.measured_levels import PARTIAL, MeasuredLevels, waited_in_vain
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.training import local
from fedfleet.training.submodels import SubModels
from fedfleet.types import Kind

RECIPE = """
name = "levels"
[model]
architecture = "mlp"
hidden = [64]
[data]
dataset = "synthetic"
partition = "iid"
workers = 4
[training]
epochs = 2
[levels]
rates = [1.0, 0.5, 0.25]
assignment = "measured"
target_s = 10.0
workers = {named = "b"}
[wire]
uplink = "int8"
[rounds]
rounds = 3
cohort = 2
"""
# 1000 examples, twice: 20 s, 10 s, 2 s.
PI = Told(speeds={"a": Speed(100.0), "b": Speed(200.0), "c": Speed(1000.0)})


@pytest.fixture
def levels() -> MeasuredLevels:
    recipe = parse_recipe(RECIPE)
    return MeasuredLevels(recipe, SubModels(card_of(recipe), (1.0, 0.5, 0.25)))


def told(levels: MeasuredLevels, *workers: str) -> None:
    for worker_id in workers:
        levels.counted(worker_id, 1000)
        levels.look({worker_id: PI})


def test_level_rests_on_the_probe_and_the_counted_examples(levels: MeasuredLevels) -> None:
    levels.look({"pi": PI})
    assert levels.level("pi") == "c"

    told(levels, "pi")

    assert levels.level("pi") == "b"


def test_level_stays_until_the_next_look(levels: MeasuredLevels) -> None:
    assert levels.level("pi") == "c"

    levels.counted("pi", 1000)
    levels.book = levels.book.told("pi", PI)
    assert levels.level("pi") == "c"
    levels.look({"pi": PI})

    assert levels.level("pi") == "b"


def test_level_that_the_recipe_names_is_not_chosen(levels: MeasuredLevels) -> None:
    told(levels, "named")

    assert levels.level("named") == "b"
    assert levels.to_probe(["named"]) == ()


def test_probe_is_asked_for_once_of_those_that_nothing_is_known_of(levels: MeasuredLevels) -> None:
    told(levels, "known")
    levels.look({"uncounted": PI})

    assert levels.to_probe(["new", "known", "uncounted"]) == ("new", "uncounted")
    assert levels.to_probe(["new", "known", "later"]) == ("later",)


def test_bytes_are_those_of_the_slices_on_their_way(levels: MeasuredLevels) -> None:
    recipe = parse_recipe(RECIPE)
    models = SubModels(card_of(recipe), (1.0, 0.5, 0.25))

    for size in levels.book.sizes:
        elements = models.schema(size.name).elements(Kind.TRAINABLE)
        assert size.down_bytes == 4 * elements
        assert elements <= size.up_bytes < 1.1 * elements + 100


def test_rounds_change_the_level_once_they_are_committed(levels: MeasuredLevels) -> None:
    told(levels, "pi")
    took = header(worker_id="pi", level="b", weight=1000.0, metrics={PARTIAL: 0.5})

    levels.after([took], {"pi": 9.0})
    levels.look({"pi": PI})
    assert levels.level("pi") == "b"
    levels.advance()
    levels.enter(2)

    # 9 s for half of the steps.
    assert levels.level("pi") == "c"


def test_workers_evaluate_at_the_level_that_they_trained(levels: MeasuredLevels) -> None:
    levels.enter(1)
    told(levels, "pi")
    took = header(worker_id="pi", level="b", weight=1000.0, metrics={PARTIAL: 0.5})

    levels.after([took], {"pi": 9.0})
    levels.advance()
    levels.enter(1)

    assert levels.book.choose("pi") == "c"
    assert levels.level("pi") == "b"
    levels.enter(2)
    assert levels.level("pi") == "c"


@pytest.mark.parametrize(("loss", "is_counted"), [("sample", False), ("full", True)])
def test_loss_on_a_batch_says_nothing_of_how_many_examples_there_are(
    loss: str, is_counted: bool
) -> None:
    options = f'selection = "power-of-choice"\nloss = "{loss}"\ncandidates = 3\n'
    recipe = parse_recipe(RECIPE.replace("rounds = 3\n", "rounds = 3\n" + options))
    levels = MeasuredLevels(recipe, SubModels(card_of(recipe), (1.0, 0.5, 0.25)))

    levels.counted("pi", 32)

    assert ("pi" in levels.book.known) == is_counted


def slot(worker: str, draw: int, status: Status, *, lane: str = "", **times_s: float) -> Slot:
    key = f"r/1/{draw}/train/{worker}"
    return Slot(key, worker, Work.TRAIN, status, (key,), lane, **times_s)


def test_lateness_counts_in_every_attempt_of_a_round() -> None:
    probe = Slot("r/1/1/probe/q", "q", Work.PROBE, Status.EXPIRED, opened_s=1.0, closed_s=9.0)
    slots = [
        probe,
        slot("early", 1, Status.EXPIRED, lane="b", opened_s=10.0, closed_s=17.0),
        slot("never", 1, Status.EXPIRED),  # its turn never came
        slot("again", 1, Status.EXPIRED, opened_s=10.0, closed_s=17.0),
        slot("again", 2, Status.DONE, opened_s=17.0, closed_s=20.0),
        slot("twice", 1, Status.EXPIRED, lane="b", opened_s=10.0, closed_s=17.0),
        slot("twice", 2, Status.EXPIRED, lane="c", opened_s=17.0, closed_s=30.0),
    ]

    assert waited_in_vain(slots) == {"early": ("b", 7.0), "twice": ("c", 13.0)}


def test_worker_that_was_waited_for_in_vain_gets_a_narrower_level(levels: MeasuredLevels) -> None:
    told(levels, "pi", "other")
    levels.late({"pi": ("b", 30.0)})

    levels.after([header(worker_id="other", level="b", weight=1000.0)], {"other": 10.0})
    levels.advance()

    assert (levels.level("pi"), levels.level("other")) == ("c", "b")
    levels.after([], {})
    assert levels.book.known["pi"].condition == pytest.approx(math.log(3))


def test_memory_that_ran_out_during_a_commit_is_not_forgotten(levels: MeasuredLevels) -> None:
    told(levels, "pi")
    levels.after([], {})

    levels.exhausted("pi", "b")
    levels.advance()

    assert levels.level("pi") == "c"


def test_levels_are_taken_up_from_the_store(levels: MeasuredLevels) -> None:
    told(levels, "pi")
    levels.exhausted("pi", "b")
    memory = levels.after([], {})
    recipe = parse_recipe(RECIPE)
    again = MeasuredLevels(recipe, SubModels(card_of(recipe), (1.0, 0.5, 0.25)))

    again.load(memory)

    assert again.level("pi") == "c"
    assert again.to_probe(["pi"]) == ()
    assert without_levels(memory) == {}


def test_partial_is_the_metric_that_workers_report() -> None:
    assert PARTIAL == local.PARTIAL
