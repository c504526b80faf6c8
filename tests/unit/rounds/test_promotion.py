"""The gates before an alias moves."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import RecipeInvalid
from fedfleet.rounds.promotion import SHOWN_CLASSES, PromotionConfig, judge, measure_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.types import Evaluation

CLASSES = ("cat", "dog")
GATES = PromotionConfig(max_drop=0.005, max_class_drop=0.05)


def evaluation(cat: int, dog: int, samples: int = 1000) -> Evaluation:
    """Right answers of so many examples of each class."""
    return Evaluation(
        samples=2 * samples,
        loss_sum=1.0,
        correct=cat + dog,
        top5=2 * samples,
        class_samples=(samples, samples),
        class_correct=(cat, dog),
        class_predicted=(samples, samples),
    )


def failed(candidate: Evaluation, current: Evaluation | None, **gates: float) -> list[str]:
    config = PromotionConfig(**gates) if gates else GATES
    verdict = judge(config, candidate, current, classes=CLASSES, is_finite=True)
    assert verdict.is_passed == (not verdict.failed)
    return [gate.name for gate in verdict.failed]


def test_judge_passes_the_first_version_that_answers() -> None:
    assert failed(evaluation(100, 100), None) == []


def test_judge_asks_for_finite_answers() -> None:
    verdict = judge(GATES, evaluation(900, 900), None, classes=CLASSES, is_finite=False)

    assert [gate.name for gate in verdict.failed] == ["finite answers to the golden batch"]


def test_judge_passes_a_drop_that_is_just_allowed_and_no_more() -> None:
    assert failed(evaluation(895, 895), evaluation(900, 900)) == []
    assert failed(evaluation(894, 895), evaluation(900, 900)) == [
        "the measure against the current version"
    ]


def test_judge_refuses_a_class_that_is_given_up_for_others() -> None:
    # Better by 2 points over all, and 6 worse at dogs.
    assert failed(evaluation(1000, 840), evaluation(900, 900)) == ["class dog"]


def test_judge_does_not_compare_classes_of_few_examples() -> None:
    assert failed(evaluation(10, 5, samples=10), evaluation(8, 6, samples=10)) == []


def test_judge_holds_to_the_least_measure_without_a_current_version() -> None:
    assert failed(evaluation(500, 500), None, least=0.6) == ["the measure"]


def test_judge_measures_a_detector_by_its_precision() -> None:
    def detector(whole: float, cat: float, dog: float) -> Evaluation:
        scores = {"map50": whole, "ap50/cat": cat, "ap50/dog": dog}
        plain = evaluation(0, 0)
        return Evaluation(**{**plain.__dict__, "scores": scores})

    better = detector(0.7, 0.7, 0.7)

    assert measure_of(better) == 0.7
    assert failed(better, detector(0.6, 0.6, 0.6)) == []
    assert failed(better, detector(0.7, 0.5, 0.9)) == ["class dog"]


def test_judge_compares_no_precision_with_a_share_of_right_answers() -> None:
    plain = evaluation(100, 100)
    detector = replace(plain, scores={"map50": 0.9})

    assert failed(detector, plain) == ["measured as the current version is"]
    assert failed(plain, detector) == ["measured as the current version is"]


def test_judge_refuses_what_was_measured_on_nothing() -> None:
    nothing = Evaluation(
        samples=0,
        loss_sum=0.0,
        correct=0,
        top5=0,
        class_samples=(0, 0),
        class_correct=(0, 0),
        class_predicted=(0, 0),
    )

    assert failed(nothing, None, least=0.0) == ["measured on examples"]
    assert failed(nothing, nothing) == ["measured on examples"]


def test_verdict_of_many_classes_tells_the_worst() -> None:
    count = 1000
    names = tuple(f"class-{number:04}" for number in range(count))
    samples, right = (1000,) * count, tuple(range(1000))

    def of(correct: tuple[int, ...]) -> Evaluation:
        return Evaluation(
            samples=sum(samples),
            loss_sum=1.0,
            correct=sum(correct),
            top5=sum(samples),
            class_samples=samples,
            class_correct=correct,
            class_predicted=samples,
        )

    worse = (*(one + 200 for one in right[:700]), *(700 - one for one in range(300)))
    verdict = judge(GATES, of(worse), of(right), classes=names, is_finite=True)
    told = verdict.to_json()

    assert (told["classes"], told["classes_failed"]) == (1000, 274)
    assert len(told["gates"]) == 4 + SHOWN_CLASSES
    assert told["gates"][4]["name"] == "class class-0999"
    assert not any(gate["is_passed"] for gate in told["gates"][4:])
    assert len(json.dumps(told)) < 4000
    assert verdict.reason.count("class class-") == SHOWN_CLASSES
    assert verdict.reason.endswith("; and 254 more classes")
    assert len(verdict.failed) == 274


counts = st.integers(0, 1000)


@given(counts, counts, st.floats(0, 1), st.floats(0, 1))
def test_judge_never_refuses_a_version_against_itself(
    cat: int, dog: int, drop: float, class_drop: float
) -> None:
    same = evaluation(cat, dog)

    assert failed(same, same, max_drop=drop, max_class_drop=class_drop) == []


@given(counts, counts, counts, counts, st.floats(0, 0.5))
def test_judge_passes_no_less_when_more_is_allowed(
    a: int, b: int, c: int, d: int, drop: float
) -> None:
    strict = failed(evaluation(a, b), evaluation(c, d), max_drop=drop, max_class_drop=drop)
    loose = failed(
        evaluation(a, b), evaluation(c, d), max_drop=drop + 0.1, max_class_drop=drop + 0.1
    )

    assert set(loose) <= set(strict)


RECIPE = """
name = "digits"
[model]
architecture = "mlp"
[data]
dataset = "digits"
partition = "iid"
workers = 2
[rounds]
rounds = 1
cohort = 2
"""


def test_recipe_has_gates_where_it_names_them() -> None:
    assert parse_recipe(RECIPE).promote is None
    assert parse_recipe(RECIPE + "[promote]\nmax_drop = 0.01").promote == PromotionConfig(
        max_drop=0.01
    )


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ('[promote]\nalias = "latest"', 'alias = "latest": moves by itself'),
        ('[promote]\nalias = "previous"', 'alias = "previous": moves by itself'),
        ('[promote]\nalias = "prod eu"', 'alias = "prod eu": must be 1 to 64 characters'),
        ('[promote]\nalias = "1"', 'alias = "1": must be 1 to 64 characters'),
        ("[promote]\nmax_drop = 1.5", "max_drop = 1.5: must be from 0 to 1"),
        ("[promote]\nmin_class_samples = 0", "must be 1 or more"),
        ("[promote]\nmax_dorp = 0.1", "max_drop"),
        ("[promote]\n[evaluation]\ncoordinator = false", "judged by the coordinator's evaluation"),
    ],
)
def test_recipe_refuses_gates_that_cannot_be(table: str, text: str) -> None:
    with pytest.raises(RecipeInvalid) as raised:
        parse_recipe(RECIPE + table)

    assert text in raised.value.message
