from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.algorithms.fedavg import FedAvgOptions
from fedfleet.data.config import DigitsOptions
from fedfleet.errors import FedFleetError
from fedfleet.models.config import MlpOptions
from fedfleet.rounds.recipe import MAX_RECIPE_BYTES, parse_recipe
from fedfleet.rounds.selection import WeightedOptions

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.toml"))

MINIMAL: dict[str, Any] = {
    "name": "digits",
    "model": {"architecture": "mlp"},
    "data": {"dataset": "digits"},
    "rounds": {"rounds": 3, "cohort": 2},
}


def toml(value: Any) -> str:
    """A value as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value)


def text_of(tables: dict[str, Any]) -> str:
    return "\n".join(f"{json.dumps(name)} = {toml(value)}" for name, value in tables.items())


def with_(**changes: Any) -> str:
    """The minimal recipe with fields of tables changed; None takes a key out."""
    tables = {k: dict(v) if isinstance(v, dict) else v for k, v in MINIMAL.items()}
    for name, value in changes.items():
        if isinstance(value, dict):
            table = tables.setdefault(name, {})
            table.update(value)
            tables[name] = {k: v for k, v in table.items() if v is not None}
        else:
            tables[name] = value
    return text_of({k: v for k, v in tables.items() if v is not None})


def refused(text: str) -> FedFleetError:
    with pytest.raises(FedFleetError) as caught:
        parse_recipe(text)
    assert "\n" not in caught.value.message
    return caught.value


def test_minimal_recipe_gets_the_defaults() -> None:
    recipe = parse_recipe(text_of(MINIMAL))

    assert (recipe.name, recipe.seed) == ("digits", 0)
    assert recipe.model.options == MlpOptions()
    assert recipe.data.options == DigitsOptions()
    assert recipe.data.partition == "none"
    assert recipe.algorithm.name == "fedavg"
    assert recipe.algorithm.options == FedAvgOptions()
    assert recipe.wire.uplink == "identity"
    assert recipe.source == text_of(MINIMAL)


def test_every_table_is_taken() -> None:
    recipe = parse_recipe(
        """
        name = "fleet-7.b_2"
        seed = 9223372036854775807

        [model]
        architecture = "mlp"
        hidden = [64, 32]

        [data]
        dataset = "folder"
        classes = ["cat", "dog"]
        image_size = 64
        partition = "dirichlet"
        alpha = 1
        workers = 5

        [training]
        epochs = 2
        optimizer = "adamw"
        lr = 0.001
        scheduler = "plateau"
        plateau_factor = 0.5

        [algorithm]
        name = "fedavg"
        server_lr = 0.5
        weighting = "uniform"
        statistics = "pooled"

        [rounds]
        rounds = 4
        cohort = 3
        over_select = 2
        quorum = 2
        deadline_s = 60

        [evaluation]
        every = 2
        workers = "cohort"

        [wire]
        uplink = "identity"
        """
    )

    assert recipe.seed == 2**63 - 1
    assert recipe.model.options == MlpOptions(hidden=(64, 32))
    assert recipe.data.options.classes == ("cat", "dog")
    assert (recipe.data.alpha, recipe.data.workers) == (1.0, 5)
    assert recipe.training.plateau_factor == 0.5
    assert recipe.algorithm.options == FedAvgOptions(server_lr=0.5, weighting="uniform")
    assert recipe.algorithm.statistics == "pooled"
    assert (recipe.rounds.needed, recipe.rounds.awaited) == (2, 5)
    assert recipe.evaluation.workers == "cohort"


def test_selection_takes_its_options_from_the_table_of_rounds() -> None:
    recipe = parse_recipe(
        with_(
            rounds={
                "selection": "weighted",
                "tags": ["jetson", "lab"],
                "propensities": {"worker-0": 3, "worker-1": 0.5},
            }
        )
    )

    assert recipe.rounds.selection == "weighted"
    assert recipe.rounds.options == WeightedOptions(propensities={"worker-0": 3, "worker-1": 0.5})
    assert recipe.rounds.tags == ("jetson", "lab")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipe_that_is_shipped_is_valid(path: Path) -> None:
    assert parse_recipe(path.read_text()).name


# Each line of bad input: the text names the field, the value and what is allowed.
REFUSED = [
    # Unknown
    (with_(rouds={"rounds": 1}), "RECIPE_INVALID", "rouds: unknown field; did you mean 'rounds'?"),
    (
        with_(training={"learning_rate": 0.1}),
        "RECIPE_INVALID",
        "training.learning_rate: unknown field; allowed: amp, augment, batch_size,",
    ),
    (with_(model={"hiden": [3]}), "RECIPE_INVALID", "model.hiden: unknown field; did you mean"),
    (with_(model={"norm": "group"}), "RECIPE_INVALID", "model.norm: unknown field; allowed: hid"),
    (with_(data={"image_size": 8}), "RECIPE_INVALID", "data.image_size: unknown field"),
    (with_(data={"options": {}}), "RECIPE_INVALID", "data.options: unknown field"),
    (
        with_(algorithm={"name": "fedavg", "mu": 0.1}),
        "RECIPE_INVALID",
        "algorithm.mu: unknown field; allowed: server_lr, weighting",
    ),
    (with_(rounds={"quorom": 1}), "RECIPE_INVALID", "rounds.quorom: unknown field; did you mean"),
    (
        with_(rounds={"selection": "ort"}),
        "RECIPE_INVALID",
        "rounds.selection = \"ort\": unknown; did you mean 'oort'? allowed: oort, power-of-choice,",
    ),
    (
        with_(rounds={"candidates": 5}),
        "RECIPE_INVALID",
        'rounds.candidates: is of selection = "power-of-choice", not "uniform"; leave one out',
    ),
    (
        with_(rounds={"selection": "power-of-choice"}),
        "RECIPE_INVALID",
        "rounds.candidates: missing; it must be a whole number",
    ),
    (
        with_(rounds={"selection": "power-of-choice", "candidates": 1}),
        "RECIPE_INVALID",
        "rounds.candidates = 1: must be at least cohort + over_select (2)",
    ),
    (
        with_(rounds={"selection": "weighted", "propensities": {"worker-0": "x"}}),
        "RECIPE_INVALID",
        'rounds.propensities.worker-0 = "x": must be a number',
    ),
    (with_(rounds={"tags": ["a", "a"]}), "RECIPE_INVALID", "rounds.tags: must be different names"),
    (with_(rounds={"options": {}}), "RECIPE_INVALID", "rounds.options: unknown field; allowed: at"),
    (
        with_(
            rounds={"selection": "oort"},
            algorithm={"name": "fedavg", "weighting": "participation"},
        ),
        "RECIPE_INVALID",
        'algorithm.weighting: rounds.selection = "oort" draws with chances that nobody knows',
    ),
    (
        with_(
            rounds={"cohort": 100},
            algorithm={"name": "fedprox", "mu": 0.1, "weighting": "participation-samples"},
        ),
        "RECIPE_INVALID",
        "rounds.max_weight = 1048576: times cohort (100) and a correction of up to 1024 it must be",
    ),
    (
        with_(algorithm={"name": "fednova", "weighting": "participation"}),
        "RECIPE_INVALID",
        'algorithm.name = "fednova": is defined for weighting = "samples" or "uniform"',
    ),
    (with_(evaluation={"evry": 1}), "RECIPE_INVALID", "evaluation.evry: unknown field; did you"),
    (with_(wire={"down": "identity"}), "RECIPE_INVALID", "wire.down: unknown field; did you"),
    (
        with_(model={"architecture": "resnet81"}),
        "UNKNOWN_MODEL",
        "model.architecture = \"resnet81\": unknown; did you mean 'resnet18'? allowed: char_lstm, ",
    ),
    (
        with_(data={"dataset": "cifar"}),
        "UNKNOWN_DATASET",
        "data.dataset = \"cifar\": unknown; did you mean 'cifar10'? allowed: cifar10, cifar100,",
    ),
    (
        with_(algorithm={"name": "fedprax"}),
        "RECIPE_INVALID",
        "algorithm.name = \"fedprax\": unknown; did you mean 'fedprox'? allowed: fed",
    ),
    (with_(wire={"uplink": "zip"}), "RECIPE_INVALID", "wire.uplink = \"zip\": no codec 'zip'; all"),
    # Of another type
    (with_(name=3), "RECIPE_INVALID", "name = 3: must be 1 to 64 of a-z 0-9 . _ -"),
    (with_(seed="7"), "RECIPE_INVALID", 'seed = "7": must be a whole number from 0 to 2^63 - 1'),
    (with_(seed=True), "RECIPE_INVALID", "seed = true: must be a whole number"),
    (with_(model="mlp"), "RECIPE_INVALID", 'model = "mlp": must be a table, written [model]'),
    (with_(model={"architecture": 3}), "RECIPE_INVALID", "model.architecture = 3: must be a text"),
    (with_(model={"hidden": 5}), "RECIPE_INVALID", "model.hidden = 5: must be a list, each a whol"),
    (with_(rounds={"cohort": 2.0}), "RECIPE_INVALID", "rounds.cohort = 2.0: must be a whole numb"),
    (with_(rounds={"deadline_s": "1m"}), "RECIPE_INVALID", 'rounds.deadline_s = "1m": must be a '),
    (with_(training={"lr": [0.1]}), "RECIPE_INVALID", "training.lr = a list: must be a number"),
    (
        with_(data={"partition": "random", "workers": 3}),
        "RECIPE_INVALID",
        'data.partition = "random": must be one of "iid", "dirichlet", "classes", "shards", ',
    ),
    # Out of range
    (with_(name="Digits"), "RECIPE_INVALID", 'name = "Digits": must be 1 to 64 of a-z'),
    (with_(name="../x"), "RECIPE_INVALID", 'name = "../x": must be 1 to 64 of a-z'),
    (with_(name="a" * 65), "RECIPE_INVALID", "name = "),
    (with_(name="a\nb"), "RECIPE_INVALID", 'name = "a\\nb": must be'),
    (with_(seed=-1), "RECIPE_INVALID", "seed = -1: must be a whole number from 0"),
    (with_(seed=1 << 63), "RECIPE_INVALID", "seed = a number of more than 63 bits: must be"),
    (with_(rounds={"rounds": 0}), "RECIPE_INVALID", "rounds.rounds = 0: must be from 1"),
    (with_(rounds={"quorum": 3}), "RECIPE_INVALID", "rounds.quorum = 3: must be from 1 to cohort"),
    (with_(training={"lr": 0}), "RECIPE_INVALID", "training.lr = 0.0: must be above 0"),
    (with_(training={"lr": math.nan}), "RECIPE_INVALID", "training.lr = nan: must be above 0"),
    (with_(training={"lr": 10**400}), "RECIPE_INVALID", "training.lr = a number of more than"),
    (
        with_(algorithm={"name": "fedavg", "server_lr": 0}),
        "RECIPE_INVALID",
        "algorithm.server_lr = 0.0: must be above 0",
    ),
    (
        with_(data={"partition": "iid", "workers": 3}, rounds={"cohort": 3, "over_select": 1}),
        "RECIPE_INVALID",
        "rounds.cohort = 3: with over_select 1 it must not pass data.workers = 3",
    ),
    (
        with_(data={"dataset": "synthetic", "classes": 1}),
        "RECIPE_INVALID",
        "data.classes = 1: must be 2 or more",
    ),
    # It would be ignored
    (with_(data={"alpha": 0.5}), "RECIPE_INVALID", "data.alpha = 0.5: has no meaning with partit"),
    (with_(data={"workers": 3}), "RECIPE_INVALID", "data.workers: has no meaning with partition "),
    (
        with_(training={"optimizer": "adam", "momentum": 0.9}),
        "RECIPE_INVALID",
        'training.momentum: has no meaning with optimizer = "adam"',
    ),
    (with_(training={"min_lr": 0.01}), "RECIPE_INVALID", "training.min_lr: has no meaning with s"),
    (
        with_(model={"architecture": "mobilenet_v3_small", "pretrained": True}),
        "RECIPE_INVALID",
        "model.pretrained = true: the weights are for stem",
    ),
    # Missing
    (with_(name=None), "RECIPE_INVALID", "name is missing: must be 1 to 64"),
    (with_(model=None), "RECIPE_INVALID", "[model]: missing; the recipe needs this table"),
    (with_(data=None), "RECIPE_INVALID", "[data]: missing; the recipe needs this table"),
    (with_(rounds=None), "RECIPE_INVALID", "[rounds]: missing; the recipe needs this table"),
    (with_(model={"architecture": None}), "RECIPE_INVALID", "model.architecture is missing: must"),
    (with_(data={"dataset": None}), "RECIPE_INVALID", "data.dataset is missing: must be a text"),
    (with_(rounds={"cohort": None}), "RECIPE_INVALID", "rounds.cohort: missing; it must be a who"),
    (with_(data={"dataset": "folder"}), "RECIPE_INVALID", "data.classes: missing; it must be a l"),
    (
        with_(data={"partition": "iid"}),
        "RECIPE_INVALID",
        'data.workers: partition = "iid" needs the number of shards',
    ),
    # Not a recipe at all
    ("name = ", "RECIPE_INVALID", "the recipe is not TOML: "),
    ('name = "a"\nname = "b"', "RECIPE_INVALID", "the recipe is not TOML: Cannot overwrite"),
    ("", "RECIPE_INVALID", "[rounds]: missing"),
    ("# " + "x" * MAX_RECIPE_BYTES, "RECIPE_INVALID", "the recipe is larger than 65536 bytes"),
    ("x = " + "[" * 20_000, "RECIPE_INVALID", "the recipe is not TOML: "),
    ("x = " + "9" * 20_000, "RECIPE_INVALID", "the recipe is not TOML: "),
    (with_().replace("3", "0x" + "f" * 20_000), "RECIPE_INVALID", "rounds.rounds = a number of mo"),
    ("name = '\ud800'", "RECIPE_INVALID", ""),
]


@pytest.mark.parametrize(
    ("text", "code", "start"), REFUSED, ids=[f"{c}-{s[:40]}" for _, c, s in REFUSED]
)
def test_recipe_is_refused_with_field_value_and_what_is_allowed(
    text: str, code: str, start: str
) -> None:
    error = refused(text)

    assert error.code == code
    assert error.message.startswith(start)
    assert len(error.message) < 1000


keys = st.sampled_from(
    [
        *("name", "seed", "architecture", "hidden", "stem", "dataset", "partition", "workers"),
        *("alpha", "lr", "momentum", "scheduler", "amp", "rounds", "cohort", "quorum", "every"),
        *("uplink", "statistics", "classes", "options", "server_lr", "max_weight", "deadline_s"),
    ]
) | st.text(max_size=5)
leaves = (
    st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["mlp", "digits", "folder", "fedavg", "iid", "dirichlet", "all", "sgd"])
    | st.text(max_size=5)
)
junk = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4)
)
table_names = ["model", "data", "training", "algorithm", "rounds", "evaluation", "wire"]


@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from(["name", "seed", *table_names]), junk, max_size=4),
    st.dictionaries(st.sampled_from(table_names), st.dictionaries(keys, leaves, max_size=3)),
)
def test_junk_never_raises_anything_but_our_errors(
    tables: dict[str, Any], changes: dict[str, dict[str, Any]]
) -> None:
    merged = {**MINIMAL, **tables}
    for name, fields in changes.items():
        base = merged.get(name, {})
        merged[name] = {**base, **fields} if isinstance(base, dict) else base
    try:
        recipe = parse_recipe(text_of(merged))
    except FedFleetError:
        code = refused(text_of(merged)).code
        assert code in ("RECIPE_INVALID", "UNKNOWN_MODEL", "UNKNOWN_DATASET")
    else:
        assert recipe.rounds.cohort >= recipe.rounds.needed >= 1


@given(st.text())
def test_any_text_never_raises_anything_but_our_errors(text: str) -> None:
    with pytest.raises(FedFleetError):
        parse_recipe(text)


def test_parsing_imports_no_torch_and_is_fast() -> None:
    code = (
        "import sys, time; began = time.process_time();"
        "from fedfleet.rounds.recipe import parse_recipe;"
        "parse_recipe(sys.stdin.read());"
        "heavy = {'torch', 'torchvision', 'grpc', 'sklearn', 'pyarrow', 'PIL', 'google.protobuf'};"
        "print(sorted(heavy & sys.modules.keys()), time.process_time() - began)"
    )

    printed = subprocess.run(
        [sys.executable, "-c", code],
        input=with_(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    imported, seconds = printed.rsplit(" ", 1)
    assert imported == "[]"
    assert float(seconds) < 1.0
