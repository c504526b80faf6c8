"""Draws a cohort: a function of the candidates, the history and seeds, the same on every machine.

The selections by name are at the end: the one place where a new one is entered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fedfleet.rounds.actions import SelectCohort
from fedfleet.rounds.chance import shuffled
from fedfleet.rounds.config import RoundsConfig
from fedfleet.rounds.history import History
from fedfleet.rounds.oort import OortOptions, select_oort
from fedfleet.rounds.power_of_choice import (
    PowerOfChoiceOptions,
    last_losses,
    nominate,
    take_largest,
)
from fedfleet.rounds.propensity import SkewedOptions, propensity
from fedfleet.rounds.systematic import corrections, inclusion, systematic


@dataclass(frozen=True, kw_only=True, eq=False)
class Ballot:
    """What a draw is made from.

    Args:
        names: the candidates, each once.
        size: how many to draw, from 1 to the number of candidates.
        round: counted from 1.
        history: as of the last commit.
        run_seed: of what stays the same in every draw of the run.
        draw_seed: of this draw.
        losses: of the version, by those of the candidates that were asked for it.
    """

    names: Sequence[str]
    size: int
    round: int = 1
    history: History = field(default_factory=History)
    run_seed: int
    draw_seed: int
    losses: Mapping[str, float] | None = None

    @classmethod
    def of(cls, action: SelectCohort, history: History, *, run_seed: int, draw_seed: int) -> Ballot:
        """The ballot of what the machine asks for."""
        return cls(
            names=action.candidates,
            size=action.size,
            round=action.round,
            history=history,
            run_seed=run_seed,
            draw_seed=draw_seed,
            losses=action.losses,
        )


@dataclass(frozen=True, eq=False)
class Drawn:
    """Who is drawn, in order of their names.

    Args:
        corrections: what makes up for unequal chances, by worker (``systematic.corrections``); a
            worker without one is corrected by 1.
    """

    workers: tuple[str, ...]
    corrections: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class UniformOptions:
    """``selection = "uniform"`` has no options."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedOptions:
    """Options of ``selection = "weighted"``.

    Args:
        propensities: by worker, above 0, in any unit; one that is not named has 1. Absent: the
            training samples that each last reported (and their mean, for who never did).
    """

    propensities: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for name, value in (self.propensities or {}).items():
            if not 1e-9 <= value <= 1e9:
                raise ValueError(f"propensities.{name} = {value}: must be from 1e-9 to 1e9")


class Drawing:
    """The recipe's selection at one draw, for any names and size: what ``Algorithm.plan`` draws by.

    Args:
        ballot: of the draw; its names and size are the caller's in each call.

    Attributes:
        corrections: of everyone drawn so far.
    """

    def __init__(self, rounds: RoundsConfig, ballot: Ballot) -> None:
        self._rounds = rounds
        self._ballot = ballot
        self.corrections: dict[str, float] = {}

    def to_probe(self) -> tuple[str, ...]:
        """Who must be asked for a loss before anybody is drawn; nobody for most selections."""
        ballot, options = self._ballot, self._rounds.options
        if not loss_asked(self._rounds) or ballot.losses is not None:
            return ()
        if len(ballot.names) <= ballot.size:
            return ()  # all of them are drawn, whatever they lose
        return tuple(sorted(_nominated(ballot, options)))

    def __call__(self, names: Sequence[str], size: int) -> tuple[str, ...]:
        """Draw; the same names and size give the same answer."""
        drawn = select(self._rounds, replace(self._ballot, names=names, size=size))
        self.corrections.update(drawn.corrections)
        return drawn.workers


def select(rounds: RoundsConfig, ballot: Ballot) -> Drawn:
    """Draw as the recipe asks; no more than there are, and nobody where nobody is asked for."""
    size = min(ballot.size, len(ballot.names))
    if size == 0:
        return Drawn(())
    options_class, draw = SELECTIONS[rounds.selection]
    options = options_class() if rounds.options is None else rounds.options
    return draw(replace(ballot, size=size), options)


def needs_history(rounds: RoundsConfig) -> bool:
    """Whether what workers reported before must be kept, for the selection or the deadline."""
    return rounds.selection in WITH_HISTORY or rounds.deadline == "history"


def check_selection(rounds: RoundsConfig) -> None:
    """Raises ValueError: the selection's options do not fit the recipe's cohort."""
    options, asked = rounds.options, rounds.cohort + rounds.over_select
    if isinstance(options, PowerOfChoiceOptions) and options.candidates < asked:
        raise ValueError(
            f"candidates = {options.candidates}: must be at least cohort + over_select ({asked})"
        )


def _uniform(ballot: Ballot, options: UniformOptions) -> Drawn:
    """Each set of that size with equal probability: by rank of a keyed hash."""
    return Drawn(tuple(sorted(shuffled(ballot.names, ballot.draw_seed)[: ballot.size])))


def _weighted(ballot: Ballot, options: WeightedOptions) -> Drawn:
    known = options.propensities
    if known is None:
        return _by_chances(ballot, ballot.history.samples(ballot.names))
    return _by_chances(ballot, {name: known.get(name, 1.0) for name in ballot.names})


def _skewed(ballot: Ballot, options: SkewedOptions) -> Drawn:
    weights = {name: propensity(name, options.skew, ballot.run_seed) for name in ballot.names}
    return _by_chances(ballot, weights)


def _by_chances(ballot: Ballot, weights: Mapping[str, float]) -> Drawn:
    ticks = inclusion(weights, ballot.size)
    workers = systematic(ticks, ballot.draw_seed)
    return Drawn(workers, corrections(ticks, workers))


def _power_of_choice(ballot: Ballot, options: PowerOfChoiceOptions) -> Drawn:
    history, seed = ballot.history, ballot.draw_seed
    if ballot.losses is None:
        losses = last_losses(_nominated(ballot, options), history)
        return Drawn(take_largest(losses, ballot.size, seed))
    asked = {name: ballot.losses[name] for name in ballot.names if name in ballot.losses}
    chosen = take_largest(asked, ballot.size, seed)
    # Too few of those that were asked have answered.
    others = nominate(set(ballot.names) - set(asked), ballot.size - len(chosen), history, seed)
    return Drawn(tuple(sorted([*chosen, *others])))


def _nominated(ballot: Ballot, options: PowerOfChoiceOptions) -> list[str]:
    count = max(options.candidates, ballot.size)
    return nominate(ballot.names, count, ballot.history, ballot.draw_seed)


def loss_asked(rounds: RoundsConfig) -> Literal["", "sample", "full"]:
    """On which of their training examples workers are asked for a loss before a draw, if at all."""
    options = rounds.options
    if not isinstance(options, PowerOfChoiceOptions) or options.loss == "last":
        return ""
    return options.loss


def _oort(ballot: Ballot, options: OortOptions) -> Drawn:
    return Drawn(
        select_oort(
            ballot.names, ballot.size, options, ballot.history, ballot.round, ballot.draw_seed
        )
    )


# Options class and draw. Any: each draw takes its own options class.
SELECTIONS: Mapping[str, tuple[type, Callable[[Ballot, Any], Drawn]]] = {
    "uniform": (UniformOptions, _uniform),
    "weighted": (WeightedOptions, _weighted),
    "skewed": (SkewedOptions, _skewed),
    "power-of-choice": (PowerOfChoiceOptions, _power_of_choice),
    "oort": (OortOptions, _oort),
}
# Those whose chances are known, so that weights can make up for them.
WITH_CHANCES = ("uniform", "weighted", "skewed")
# Those that look at what workers reported before.
WITH_HISTORY = ("weighted", "power-of-choice", "oort")
