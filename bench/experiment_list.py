"""The experiments of docs/results.md: a base recipe each, what every variant changes of it, and
what the literature lets one expect.

Sized for one core: a few minutes each, which is a hundredth of what papers spend. So the orderings
are what is compared; the heights are below the published ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean

from experiment_measures import gaussian_weights, group_balance

from fedfleet.algorithms.base import Memory
from fedfleet.rounds.recipe import Recipe

# Of the recipe, what the coordinator's half kept at the end, and the folder of data sets.
Measure = Callable[[Recipe, Memory, Path], Mapping[str, float]]
# What a variant changes: "table.field" to its value; None leaves the field out.
Changes = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a variant came to, one entry per seed.

    Args:
        accuracy: mean of the last evaluations on the test split, in [0, 1].
        rounds_to: first evaluated round at the experiment's target; infinite if it was not reached.
        extra: further figures, by name.
    """

    accuracy: tuple[float, ...]
    rounds_to: tuple[float, ...]
    extra: Mapping[str, tuple[float, ...]]


Results = Mapping[str, Found]


@dataclass(frozen=True)
class Check:
    """Something that is expected of the results; the table says whether it holds."""

    text: str
    holds: Callable[[Results], bool]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One table of the page, which says what is asked and what the literature has.

    Args:
        recipe: the file of recipes/ that it starts from.
        last: how many evaluations are behind an accuracy.
        target: accuracy for the rounds-to-target column, in [0, 1]; None leaves it out.
        measure: gives further columns.
    """

    name: str
    title: str
    recipe: str
    variants: Mapping[str, Changes]
    seeds: tuple[int, ...] = (1,)
    last: int = 3
    target: float | None = None
    measure: Measure | None = None
    checks: tuple[Check, ...] = ()


def above(better: str, worse: str, margin: float = 0.0) -> Check:
    """The mean accuracy of one is at least another's, less a margin; below 0 it must be more."""
    slack = f" {'-' if margin > 0 else '+'} {100 * abs(margin):g} points" if margin else ""
    return Check(
        f"{better} >= {worse}{slack}",
        lambda found: mean(found[better].accuracy) >= mean(found[worse].accuracy) - margin,
    )


def descending(labels: Sequence[str], margin: float = 0.0) -> tuple[Check, ...]:
    """Each is at least as accurate as the next."""
    return tuple(above(a, b, margin) for a, b in pairwise(labels))


def sooner(fast: str, slow: str, times: float) -> Check:
    """One reaches the target in so many times fewer rounds than another, or alone."""
    return Check(
        f"{fast} reaches the target in at most 1/{times:g} of the rounds of {slow}"
        if times > 1
        else f"{fast} reaches the target no later than {slow}",
        lambda found: (
            mean(found[fast].rounds_to) * times <= mean(found[slow].rounds_to)
            and mean(found[fast].rounds_to) < float("inf")
        ),
    )


def below(figure: str, low: str, high: str) -> Check:
    """A further figure of one is below another's."""
    return Check(
        f"{figure}: {low} < {high}",
        lambda found: mean(found[low].extra[figure]) < mean(found[high].extra[figure]),
    )


def at_most(figure: str, label: str, most: float) -> Check:
    """A further figure is below a number for every seed."""
    return Check(
        f"{label}: {figure} < {most:g}", lambda found: max(found[label].extra[figure]) < most
    )


ONE_WORKER: Changes = {"data.partition": "iid", "data.alpha": None, "data.workers": 1}
IID: Changes = {"data.partition": "iid", "data.alpha": None}


def classes(each: int) -> Changes:
    """Every worker holds so many classes."""
    return {"data.partition": "classes", "data.alpha": None, "data.classes_per_worker": each}


# Of CIFAR, where decoding would cost more than training.
FEWER: Changes = {"data.samples": 20_000}
# Of a recipe whose split is IID.
ONE_CLASS: Changes = {"data.partition": "classes", "data.classes_per_worker": 1}
TWO_CLASSES: Changes = {"data.partition": "classes", "data.classes_per_worker": 2}


def _choice(candidates: int, loss: str) -> Changes:
    return {
        "rounds.selection": "power-of-choice",
        "rounds.candidates": candidates,
        "rounds.loss": loss,
    }


CENTRAL = Experiment(
    name="central",
    last=1,
    title="Centralised baselines",
    recipe="experiments/cifar.toml",
    variants={
        name: {
            **ONE_WORKER,
            "data.dataset": name,
            "training.lr": 0.01,
            "rounds.rounds": 6,
            "rounds.cohort": 1,
            "evaluation.every": 1,
        }
        for name in ("cifar10", "cifar100")
    },
)

PARTICIPATION = Experiment(
    name="participation",
    title="Participation ratio and local epochs",
    recipe="experiments/cifar.toml",
    variants={
        f"{cohort} %, {epochs} epoch{'s' * (epochs > 1)}": {
            **FEWER,
            "rounds.cohort": cohort,
            "training.epochs": epochs,
            "rounds.rounds": 20,
        }
        for cohort in (5, 20)
        for epochs in (1, 4)
    },
    checks=(
        above("5 %, 4 epochs", "5 %, 1 epoch"),
        above("20 %, 4 epochs", "20 %, 1 epoch"),
        above("20 %, 1 epoch", "5 %, 1 epoch"),
        above("20 %, 4 epochs", "5 %, 4 epochs"),
    ),
)

LABELS = Experiment(
    name="classes",
    title="IID against N classes per worker",
    recipe="experiments/cifar.toml",
    variants={
        "IID": {**IID, "data.dataset": "cifar100"},
        **{
            f"{n} class{'es' * (n > 1)}": {**classes(n), "data.dataset": "cifar100"}
            for n in (50, 10, 5, 1)
        },
    },
    checks=(
        *descending(["IID", "50 classes", "10 classes", "5 classes", "1 class"], 0.01),
        above("IID", "1 class", -0.02),
    ),
)

LONG: Changes = {**IID, **FEWER, "rounds.rounds": 150, "evaluation.every": 10}
SKEW = Experiment(
    name="skew",
    title="Skewed participation",
    recipe="experiments/cifar.toml",
    seeds=(1, 2),
    variants={
        "uniform": LONG,
        **{
            f"gamma {g}": {**LONG, "rounds.selection": "skewed", "rounds.skew": g}
            for g in (5.0, 1.0, 0.5, 0.05)
        },
    },
    checks=descending(["uniform", "gamma 5.0", "gamma 1.0", "gamma 0.5", "gamma 0.05"], 0.01),
)

NORMS = Experiment(
    name="norms",
    title="Batch, group and layer normalisation under label skew",
    recipe="experiments/digits.toml",
    seeds=(1, 2, 3),
    variants={
        f"{norm}, {label}": {
            **split,
            "model.architecture": "cnn",
            "model.hidden": None,
            "model.width": 0.5,
            "model.norm": norm,
            "data.workers": 20,
            "training.epochs": 2,
            "training.batch_size": 16,
            "training.lr": 0.02,
            "rounds.cohort": 5,
            "rounds.rounds": 30,
            "evaluation.every": 2,
        }
        for label, split in (("IID", {}), ("2 classes", TWO_CLASSES), ("1 class", ONE_CLASS))
        for norm in ("batch", "group", "layer")
    },
    checks=(
        above("group, 2 classes", "batch, 2 classes"),
        above("layer, 2 classes", "batch, 2 classes"),
        above("group, 1 class", "batch, 1 class"),
        above("layer, 1 class", "batch, 1 class"),
        above("batch, IID", "group, IID", 0.01),
    ),
)

OF_NIID_BENCH: Mapping[str, Changes] = {
    "FedAvg": {"name": "fedavg"},
    "FedProx": {"name": "fedprox", "mu": 0.01},
    "FedNova": {"name": "fednova"},
    "SCAFFOLD": {"name": "scaffold"},
}
ALGORITHMS = Experiment(
    name="algorithms",
    title="Algorithms against label skew",
    recipe="experiments/cifar.toml",
    variants={
        label: {
            "data.workers": 10,
            "data.samples": 10_000,
            "training.epochs": 3,
            "training.lr": 0.01,
            "training.batch_size": 64,
            "rounds.rounds": 15,
            "evaluation.every": 3,
            **{f"algorithm.{key}": value for key, value in algorithm.items()},
        }
        for label, algorithm in OF_NIID_BENCH.items()
    },
    checks=(
        above("SCAFFOLD", "FedProx"),
        above("FedProx", "FedAvg", 0.01),
        above("FedAvg", "FedProx", 0.01),
        above("FedAvg", "FedNova", 0.02),
    ),
)

MCMAHAN = Experiment(
    name="mcmahan",
    title="Local work saves rounds",
    recipe="experiments/digits.toml",
    seeds=(1, 2),
    target=0.9,
    variants={
        f"{label}, {work}": {**split, **settings}
        for label, split in (
            ("IID", {}),
            ("2 shards", {"data.partition": "shards", "data.shards_per_worker": 2}),
        )
        for work, settings in (
            (
                "FedSGD",
                {
                    "algorithm.name": "fedsgd",
                    "training.epochs": 1,
                    "training.batch_size": 0,
                    "rounds.rounds": 150,
                },
            ),
            ("FedAvg E=5 B=10", {"rounds.rounds": 100}),
        )
    },
    checks=(
        sooner("IID, FedAvg E=5 B=10", "IID, FedSGD", 3),
        sooner("2 shards, FedAvg E=5 B=10", "2 shards, FedSGD", 1.5),
        sooner("IID, FedAvg E=5 B=10", "2 shards, FedAvg E=5 B=10", 2),
    ),
)

GAUSSIAN = Experiment(
    name="fedgw",
    title="FedGW with noisy workers",
    recipe="experiments/digits.toml",
    seeds=(1, 2),
    variants={
        label: {
            "data.workers": 6,
            "data.feature_noise": 0.8,
            "data.noisy_workers": 2,
            "training.epochs": 3,
            "training.lr": 0.05,
            "rounds.cohort": 6,
            "rounds.rounds": 20,
            "algorithm.name": name,
        }
        for label, name in (("FedAvg", "fedavg"), ("FedGW", "fedgw"))
    },
    measure=gaussian_weights,
    checks=(
        above("FedGW", "FedAvg"),
        at_most("weight of noisy worker 1", "FedGW", 0.5),
        at_most("weight of noisy worker 2", "FedGW", 0.5),
    ),
)

# Round 1 of FedSeq groups the workers and leaves the model as it is.
FEDSEQ = Experiment(
    name="fedseq",
    title="FedSeq: groups of workers in sequence",
    recipe="experiments/digits.toml",
    seeds=(1, 2),
    target=0.7,
    measure=group_balance,
    variants={
        label: {
            **ONE_CLASS,
            "data.workers": 50,
            "training.epochs": 1,
            "rounds.rounds": 60,
            "rounds.cohort": 10,
            **changes,
        }
        for label, changes in {
            "FedAvg": {},
            **{
                f"FedSeq, {grouping} groups": {
                    "algorithm.name": "fedseq",
                    "algorithm.grouping": grouping,
                    "algorithm.min_examples": 280,
                    "algorithm.max_workers": 10,
                    "rounds.cohort": 50,
                    "rounds.quorum": 10,
                }
                for grouping in ("greedy", "random")
            },
        }.items()
    },
    checks=(
        below("KL to uniform", "FedSeq, greedy groups", "FedSeq, random groups"),
        sooner("FedSeq, greedy groups", "FedAvg", 3),
        sooner("FedSeq, greedy groups", "FedSeq, random groups", 1),
    ),
)

CHOICE = Experiment(
    name="choice",
    title="Power of choice",
    recipe="experiments/cifar.toml",
    seeds=(1, 2),
    variants={
        label: {
            **FEWER,
            "data.alpha": 0.3,
            "rounds.cohort": 5,
            "algorithm.weighting": "uniform",
            **changes,
        }
        for label, changes in {
            "random, all alike": {},
            "random, by samples": _choice(5, "last"),
            "10 candidates, loss of a batch": _choice(10, "sample"),
            "25 candidates, loss of a batch": _choice(25, "sample"),
            "25 candidates, last loss": _choice(25, "last"),
        }.items()
    },
    checks=(
        above("10 candidates, loss of a batch", "random, by samples"),
        above("25 candidates, loss of a batch", "random, by samples"),
        above("25 candidates, last loss", "random, by samples"),
    ),
)

SHAKESPEARE = Experiment(
    name="shakespeare",
    title="Shakespeare",
    recipe="experiments/shakespeare.toml",
    variants={"natural split": {}},
)

REFERENCE = Experiment(
    name="reference",
    title="The reference run, small",
    recipe="cifar100-resnet18.toml",
    last=1,
    variants={
        "width 0.25, 10,000 images, 8 rounds": {
            "model.width": 0.25,
            "data.samples": 10_000,
            "training.threads": 1,
            "rounds.rounds": 8,
        }
    },
    checks=(Check("twice as good as chance", lambda found: _least(found) > 0.02),),
)


def _least(found: Results) -> float:
    return min(value for one in found.values() for value in one.accuracy)


EXPERIMENTS: Mapping[str, Experiment] = {
    one.name: one
    for one in (
        CENTRAL,
        PARTICIPATION,
        LABELS,
        SKEW,
        NORMS,
        ALGORITHMS,
        MCMAHAN,
        GAUSSIAN,
        FEDSEQ,
        CHOICE,
        SHAKESPEARE,
        REFERENCE,
    )
}
