"""The recipe: a run as one flat TOML file, parsed into one tree of frozen dataclasses."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

from fedfleet import plugins
from fedfleet.algorithms.catalog import CATALOG as ALGORITHMS
from fedfleet.algorithms.catalog import AlgorithmConfig, make_algorithm
from fedfleet.algorithms.fedavg import MAX_CORRECTION
from fedfleet.codecs.config import WireConfig
from fedfleet.data import config as data_config
from fedfleet.data.config import DataConfig
from fedfleet.errors import RecipeInvalid, UnknownDataset, UnknownModel
from fedfleet.models import config as model_config
from fedfleet.models.config import ModelConfig, ModelKind
from fedfleet.rounds.asynchronous import check_asynchronous
from fedfleet.rounds.config import MAX_TOTAL_WEIGHT, RoundsConfig
from fedfleet.rounds.kinds import check_kind
from fedfleet.rounds.levels import LevelsConfig
from fedfleet.rounds.promotion import PromotionConfig
from fedfleet.rounds.selection import SELECTIONS, WITH_CHANCES, check_selection
from fedfleet.tables import parse_table, printable, shown, suggest
from fedfleet.training.config import EvaluationConfig, TrainingConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_RECIPE_BYTES = 64 * 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A validated run.

    Args:
        name: name of the model in the registry.
        seed: from which every random choice of the run is derived, in [0, 2^63).
        kind: what the model is to answer with.
        levels: the widths that workers train; None where all train the whole model.
        promote: the gates before a version goes to work; None where nobody judges them.
        source: the TOML text.
    """

    name: str
    seed: int
    kind: ModelKind = "classification"
    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    algorithm: AlgorithmConfig
    rounds: RoundsConfig
    evaluation: EvaluationConfig
    wire: WireConfig
    levels: LevelsConfig | None = None
    promote: PromotionConfig | None = None
    source: str

    @property
    def fleet(self) -> int | None:
        """How many workers hold data for the run, where the recipe says it."""
        return self.rounds.fleet or self.data.workers


def parse_recipe(text: str) -> Recipe:
    """Parse and validate a recipe; imports no torch and touches no data.

    Raises:
        RecipeInvalid: the text names the field, its value and what is allowed.
        UnknownModel, UnknownDataset: neither built in nor installed as a plug-in.
    """
    tables = _load(text)
    allowed = [
        "name",
        "seed",
        "kind",
        "model",
        "data",
        "training",
        "algorithm",
        "rounds",
        "evaluation",
        "wire",
        "levels",
        "promote",
    ]
    for name in tables:
        if name not in allowed:
            raise RecipeInvalid(f"{printable(name)}: unknown field; {suggest(name, allowed)}")
    rounds = _rounds(_table(tables, "rounds"))
    data = _data(_table(tables, "data"))
    training = parse_table(TrainingConfig, _table(tables, "training", {}), "training")
    algorithm = _algorithm(_table(tables, "algorithm", {"name": "fedavg"}))
    _check_cohort(rounds, data, algorithm)
    _check_algorithm(algorithm, training, rounds, data)
    _check_weighting(algorithm, rounds)
    evaluation = parse_table(EvaluationConfig, _table(tables, "evaluation", {}), "evaluation")
    _check_asynchrony(algorithm, rounds, evaluation)
    _check_mode(algorithm, training, rounds)
    wire = parse_table(WireConfig, _table(tables, "wire", {}), "wire")
    levels = _levels(tables, algorithm, wire)
    _check_dropout(training, algorithm, levels)
    kind, model = _kind(tables), _model(_table(tables, "model"))
    check_kind(kind, model, training, algorithm)
    return Recipe(
        name=_name(tables),
        seed=_seed(tables),
        kind=kind,
        model=model,
        data=data,
        training=training,
        algorithm=algorithm,
        rounds=rounds,
        evaluation=evaluation,
        wire=wire,
        levels=levels,
        promote=_promotion(tables, evaluation),
        source=text,
    )


def _load(text: str) -> dict[str, Any]:
    if len(text.encode(errors="replace")) > MAX_RECIPE_BYTES:
        raise RecipeInvalid(f"the recipe is larger than {MAX_RECIPE_BYTES} bytes")
    try:
        return tomllib.loads(text)
    # ValueError beyond TOMLDecodeError: a number too long for int(); RecursionError: deep lists.
    except (ValueError, RecursionError) as error:
        raise RecipeInvalid(f"the recipe is not TOML: {printable(str(error))}") from error


def _table(
    tables: Mapping[str, Any], name: str, default: dict[str, Any] | None = None
) -> dict[str, Any]:
    value = tables.get(name, default)
    if value is None:
        raise RecipeInvalid(f"[{name}]: missing; the recipe needs this table")
    if not isinstance(value, dict):
        raise RecipeInvalid(f"{name} = {shown(value)}: must be a table, written [{name}]")
    return dict(value)


def _name(tables: Mapping[str, Any]) -> str:
    name = tables.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RecipeInvalid(
            f"name{_given(name)}: must be 1 to 64 of a-z 0-9 . _ - and begin with a letter or digit"
        )
    return name


def _seed(tables: Mapping[str, Any]) -> int:
    seed = tables.get("seed", 0)
    if type(seed) is not int or not 0 <= seed < 1 << 63:
        raise RecipeInvalid(f"seed = {shown(seed)}: must be a whole number from 0 to 2^63 - 1")
    return seed


def _kind(tables: Mapping[str, Any]) -> ModelKind:
    kind: Any = tables.get("kind", "classification")
    if kind not in get_args(ModelKind):
        allowed = ", ".join(f'"{name}"' for name in get_args(ModelKind))
        raise RecipeInvalid(f"kind = {shown(kind)}: must be one of {allowed}")
    checked: ModelKind = kind
    return checked


def _pop_name(table: dict[str, Any], key: str, where: str) -> str:
    name = table.pop(key, None)
    if not isinstance(name, str):
        raise RecipeInvalid(f"{where}.{key}{_given(name)}: must be a text")
    return name


def _given(value: Any) -> str:
    """What stands after a field's name where it is set; TOML itself cannot say none."""
    return " is missing" if value is None else f" = {shown(value)}"


def _model(table: dict[str, Any]) -> ModelConfig:
    name = _pop_name(table, "architecture", "model")
    if name in model_config.BUILT_IN:
        options: Any = parse_table(model_config.BUILT_IN[name], table, "model")
        return ModelConfig(architecture=name, options=options)
    installed = plugins.names(plugins.MODELS)
    if name not in installed:
        known = [*model_config.BUILT_IN, *installed]
        raise UnknownModel(f"model.architecture = {shown(name)}: unknown; {suggest(name, known)}")
    return ModelConfig(architecture=name, options=table)


def _data(table: dict[str, Any]) -> DataConfig:
    name = _pop_name(table, "dataset", "data")
    own = _take(table, DataConfig)
    if name in data_config.BUILT_IN:
        options: Any = parse_table(data_config.BUILT_IN[name], table, "data")
    elif name in plugins.names(plugins.DATASETS):
        options = table
    else:
        known = [*data_config.BUILT_IN, *plugins.names(plugins.DATASETS)]
        raise UnknownDataset(f"data.dataset = {shown(name)}: unknown; {suggest(name, known)}")
    return parse_table(DataConfig, {**own, "dataset": name, "options": options}, "data")


def _algorithm(table: dict[str, Any]) -> AlgorithmConfig:
    name = _pop_name(table, "name", "algorithm")
    if name not in ALGORITHMS:
        raise RecipeInvalid(
            f"algorithm.name = {shown(name)}: unknown; {suggest(name, list(ALGORITHMS))}"
        )
    own = _take(table, AlgorithmConfig)
    options: Any = parse_table(ALGORITHMS[name][0], table, "algorithm")
    return parse_table(AlgorithmConfig, {**own, "name": name, "options": options}, "algorithm")


def _rounds(table: dict[str, Any]) -> RoundsConfig:
    own = _take(table, RoundsConfig)
    name = own.get("selection", "uniform")
    if name not in SELECTIONS:
        known = list(SELECTIONS)
        raise RecipeInvalid(f"rounds.selection = {shown(name)}: unknown; {suggest(name, known)}")
    options_class, _ = SELECTIONS[name]
    _check_options(table, name, options_class)
    options: Any = parse_table(options_class, table, "rounds")
    rounds = parse_table(RoundsConfig, {**own, "options": options}, "rounds")
    try:
        check_selection(rounds)
    except ValueError as error:
        raise RecipeInvalid(f"rounds.{error}") from error
    return rounds


def _check_options(table: Mapping[str, Any], selection: str, options_class: type) -> None:
    """What is left of [rounds] must be an option of the selection."""
    allowed = {item.name for item in fields(options_class)}
    for name in table:
        if name in allowed:
            continue
        for other, (cls, _) in SELECTIONS.items():
            if name in {item.name for item in fields(cls)}:
                raise RecipeInvalid(
                    f'rounds.{name}: is of selection = "{other}", not "{selection}"; leave one out'
                )
        known = [item.name for item in fields(RoundsConfig) if item.name != "options"]
        raise RecipeInvalid(
            f"rounds.{printable(name)}: unknown field; {suggest(name, [*known, *allowed])}"
        )


def _take(table: dict[str, Any], cls: type) -> dict[str, Any]:
    """Take out of a table what belongs to the class itself; the rest are the options."""
    names = {item.name for item in fields(cls)} - {"options"}
    return {key: table.pop(key) for key in list(table) if key in names}


def _check_algorithm(
    config: AlgorithmConfig, training: TrainingConfig, rounds: RoundsConfig, data: DataConfig
) -> None:
    algorithm, fleet = make_algorithm(config), rounds.fleet or data.workers
    if algorithm.needs_workers and fleet is None:
        raise RecipeInvalid(
            f'algorithm.name = "{config.name}": must know how many workers hold data; set '
            "rounds.fleet, or data.workers for a partitioned data set"
        )
    if not algorithm.draws_workers and rounds.selection != "uniform":
        raise RecipeInvalid(
            f'rounds.selection = "{rounds.selection}": algorithm.name = "{config.name}" draws '
            "groups of workers, alike; leave it out"
        )
    if algorithm.exemplars and data.workers is None:
        raise RecipeInvalid(
            f'algorithm.name = "{config.name}": needs public examples, the test split of a data '
            "set that all workers have: set data.workers, or another approximator"
        )
    try:
        algorithm.check_training(training)
        algorithm.check_cohort(rounds.cohort, fleet)
    except ValueError as error:
        raise RecipeInvalid(f'algorithm.name = "{config.name}": {error}') from error


def _check_dropout(
    training: TrainingConfig, algorithm: AlgorithmConfig, levels: LevelsConfig | None
) -> None:
    if not training.ordered_dropout:
        return
    if levels is None:
        raise RecipeInvalid(
            "training.ordered_dropout: draws among the levels of the table [levels], which is "
            "missing; write it, or leave ordered_dropout out"
        )
    if algorithm.name == "fedsgd":
        raise RecipeInvalid(
            'training.ordered_dropout: algorithm.name = "fedsgd" takes the gradient of the whole '
            "model; leave one of them out"
        )


def _levels(
    tables: Mapping[str, Any], config: AlgorithmConfig, wire: WireConfig
) -> LevelsConfig | None:
    algorithm = make_algorithm(config)
    if "levels" not in tables:
        if algorithm.needs_levels:
            raise RecipeInvalid(
                f'algorithm.name = "{config.name}": needs the table [levels], which says what '
                "widths workers train"
            )
        return None
    levels = parse_table(LevelsConfig, _table(tables, "levels"), "levels")
    if not algorithm.takes_levels:
        raise RecipeInvalid(
            f'[levels]: algorithm.name = "{config.name}" is not defined for workers with narrower '
            "models; take heterofl, fedavg, fedprox or fedsgd"
        )
    if algorithm.corrects_chances:
        raise RecipeInvalid(
            "[levels]: algorithm.weighting corrects a mean over all workers, and a coordinate has "
            'the mean of some; take "samples" or "uniform"'
        )
    lossy_down = wire.downlink_chain.text != "identity"
    fed_back = wire.error_feedback and not wire.uplink_chain.is_unbiased
    if levels.submodel == "rolling" and (lossy_down or fed_back):
        raise RecipeInvalid(
            'levels.submodel = "rolling": what a codec left out belongs to the coordinates of one '
            'round, and the next has others; set wire.downlink = "identity" and '
            "wire.error_feedback = false"
        )
    return levels


def _promotion(tables: Mapping[str, Any], evaluation: EvaluationConfig) -> PromotionConfig | None:
    if "promote" not in tables:
        return None
    if not evaluation.coordinator:
        raise RecipeInvalid(
            "[promote]: versions are judged by the coordinator's evaluation; leave out "
            "evaluation.coordinator = false, or this table"
        )
    return parse_table(PromotionConfig, _table(tables, "promote"), "promote")


def _check_asynchrony(
    config: AlgorithmConfig, rounds: RoundsConfig, evaluation: EvaluationConfig
) -> None:
    if make_algorithm(config).asynchrony is None:
        return
    try:
        check_asynchronous(rounds, evaluation)
    except ValueError as error:
        raise RecipeInvalid(f'algorithm.name = "{config.name}": {error}') from error


def _check_mode(config: AlgorithmConfig, training: TrainingConfig, rounds: RoundsConfig) -> None:
    """Rounds of a fixed length live on what workers have at their end."""
    if rounds.mode != "semi-synchronous":
        return
    if not training.partial_work:
        raise RecipeInvalid(
            'training.partial_work = false: rounds.mode = "semi-synchronous" counts what workers '
            "have done when a round ends; leave one out"
        )
    if not make_algorithm(config).takes_partial(1):
        raise RecipeInvalid(
            f'rounds.mode = "semi-synchronous": algorithm.name = "{config.name}" needs whole '
            "epochs; leave it out"
        )


def _check_weighting(config: AlgorithmConfig, rounds: RoundsConfig) -> None:
    """Weights can make up for chances only where these are known."""
    algorithm = make_algorithm(config)
    if not algorithm.corrects_chances:
        return
    if rounds.selection not in WITH_CHANCES:
        names = ", ".join(f'"{name}"' for name in WITH_CHANCES)
        raise RecipeInvalid(
            f'algorithm.weighting: rounds.selection = "{rounds.selection}" draws with chances that '
            f"nobody knows, so no weights make up for them; choose one of {names}"
        )
    if algorithm.largest_weight is not None:
        return
    if rounds.max_weight * MAX_CORRECTION * rounds.cohort > MAX_TOTAL_WEIGHT:
        raise RecipeInvalid(
            f"rounds.max_weight = {rounds.max_weight}: times cohort ({rounds.cohort}) and a "
            f"correction of up to {MAX_CORRECTION:g} it must be at most {MAX_TOTAL_WEIGHT}; set it "
            "to the most samples that a worker has"
        )


def _check_cohort(rounds: RoundsConfig, data: DataConfig, algorithm: AlgorithmConfig) -> None:
    if make_algorithm(algorithm).asynchrony is not None:
        return  # the updates of a version may be of few workers, or of one
    if data.workers is not None and rounds.cohort + rounds.over_select > data.workers:
        raise RecipeInvalid(
            f"rounds.cohort = {rounds.cohort}: with over_select {rounds.over_select} it must not "
            f"pass data.workers = {data.workers}"
        )
