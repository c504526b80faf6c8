from __future__ import annotations

import pytest
from samples import header

from fedfleet.rounds.metrics import mean_metrics


def test_mean_metrics_weighs_by_samples() -> None:
    found = mean_metrics(
        [header(weight=1.0, metrics={"loss": 4.0}), header(weight=3.0, metrics={"loss": 8.0})]
    )

    assert found == {"loss": 7.0}


def test_mean_metrics_takes_each_metric_over_the_updates_that_carry_it() -> None:
    found = mean_metrics(
        [
            header(weight=1.0, metrics={"loss": 1.0}),
            header(weight=9.0, metrics={"loss": 1.0, "accuracy": 0.5}),
        ]
    )

    assert found == pytest.approx({"loss": 1.0, "accuracy": 0.5})
    assert list(found) == ["accuracy", "loss"]


def test_mean_metrics_leaves_out_what_only_the_algorithm_reads() -> None:
    metrics = {"loss": 2.0, "algorithm.fedseq_0000": 0.25, "algorithms": 1.0}

    assert mean_metrics([header(metrics=metrics)]) == {"algorithms": 1.0, "loss": 2.0}


def test_mean_metrics_of_nothing_is_empty() -> None:
    assert mean_metrics([]) == {}


def test_mean_metrics_leaves_out_what_is_no_number() -> None:
    huge = [header(weight=9.0, metrics={"loss": 1e308, "accuracy": 0.5}) for _ in range(2)]

    assert mean_metrics(huge) == {"accuracy": 0.5}
