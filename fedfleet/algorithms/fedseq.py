"""FedSeq (Zaccone et al. 2022, arXiv 2201.12467): workers train one after the other in groups.

Round 1 groups: every worker trains the initial model for ``grouping_epochs``, describes its labels
by what that model learned, and sends the description alone; the model stays as it is. Then each
round draws ``share`` of the groups ("superclients"). In a group the workers train one after the
other, in another order each time, each from the result of the one before; the groups' results are
averaged by their examples (Algorithm 1):

    x+ = x + sum_g n_g (sum_{i in g} delta_i) / sum_g n_g.

With ``interval`` > 1 it is the inter-superclient variant: each drawn group trains a model of a
bank, another one each round, and the bank is averaged every ``interval`` rounds only; in between
the published version is the bank's mean.

The public exemplars stay in the split that the coordinator evaluates on (the paper takes them out):
models answer them, for the grouping alone, and none is trained on them.

The coordinator sees the sums of deltas, as with any algorithm. Statistics of normalisation layers
are averaged over all that trained.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, takewhile
from typing import ClassVar, Literal

import numpy as np

from fedfleet.algorithms.base import (
    DELTA,
    OWN_METRIC,
    Algorithm,
    Finished,
    Memory,
    Outcome,
    Received,
    RoundResult,
    Trained,
)
from fedfleet.algorithms.clustering import shuffled
from fedfleet.algorithms.fedavg import stepped
from fedfleet.algorithms.grouping import Described, Measure, Method, Sizes, group
from fedfleet.algorithms.plan import MAIN, Chain, Plan, PlanRequest
from fedfleet.algorithms.vectors import mean_model
from fedfleet.errors import TrainingFailed, UpdateInvalid
from fedfleet.types import Array, FloatVector, Kind, ModelState, Schema, UpdateHeader

_GROUP = "fedseq.group."
_LANE = "fedseq.lane."
_START = "fedseq.start"
_EXAMPLES = "fedseq.examples."
_DESCRIPTION = OWN_METRIC + "fedseq_{:04d}"
# Cannot be the name of a worker.
_GROUP_NAME = "group/{:05d}"
# Of the classifier's weights, by random signs: distances are kept within a few tens of percent.
PROJECTED = 64
# A header has room for so many beside what training reports.
MAX_DESCRIPTION = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class FedSeqOptions:
    """Options of ``fedseq``.

    Args:
        share: of the groups that are drawn in a round, in (0, 1].
        interval: rounds between two averages of the groups' models; 1 averages every round, more
            is the inter-superclient variant.
        approximator: what describes a worker's labels: ``confidence``, the mean of its model's
            class probabilities over public exemplars (of the data set's test split, which every
            worker must have), or ``classifier``, the change of its model's last layer.
        grouping: how groups are made: ``greedy``, the worker that fits best next, ``kmeans``, one
            of each cluster in turn, or ``random``.
        measure: what fits best, for ``greedy``: ``kullback`` and ``gini`` compare distributions, so
            they need ``confidence``; ``cosine`` and ``wasserstein`` do not.
        min_examples: examples that make a group full, >= 1.
        max_workers: workers that make a group full, >= 1.
        clusters: that ``kmeans`` makes, >= 2; the number of classes is a good one.
        grouping_epochs: local epochs of round 1, >= 1.
        exemplars: examples per class of the test split, >= 1.
    """

    share: float = 0.2
    interval: int = 1
    approximator: Literal["confidence", "classifier"] = "confidence"
    grouping: Method = "greedy"
    measure: Measure = "kullback"
    min_examples: int = 800
    max_workers: int = 11
    clusters: int = 10
    grouping_epochs: int = 10
    exemplars: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share = {self.share}: must be above 0 and at most 1")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least {least}")
        compared = self.grouping == "greedy" and self.measure in ("kullback", "gini")
        if compared and self.approximator == "classifier":
            raise ValueError(
                f'measure = "{self.measure}": compares distributions, which classifiers are not; '
                'set "cosine" or "wasserstein", or approximator = "confidence"'
            )


_LEAST = {
    "interval": 1,
    "min_examples": 1,
    "max_workers": 1,
    "clusters": 2,
    "grouping_epochs": 1,
    "exemplars": 1,
}


class FedSeq(Algorithm):
    """Sequential training in groups that are balanced together."""

    weighs_together: ClassVar[bool] = True
    needs_workers: ClassVar[bool] = True
    draws_workers: ClassVar[bool] = False

    def __init__(self, options: FedSeqOptions) -> None:
        self._options = options

    @property
    def exemplars(self) -> int:
        """Public examples per class that round 1 needs; 0 for none."""
        return self._options.exemplars if self._options.approximator == "confidence" else 0

    def check_cohort(self, cohort: int, workers: int | None) -> None:
        """Round 1 takes everybody."""
        if cohort != workers:
            raise ValueError(
                f"groups all workers in round 1; set rounds.cohort = {workers} (it is {cohort}), "
                "and rounds.quorum to how few updates of a round may do"
            )

    # Worker half

    def epochs(self, round: int, epochs: int) -> int:
        """More of them in round 1: the description is of what was learned."""
        return self._options.grouping_epochs if round == 1 else epochs

    def takes_partial(self, round: int) -> bool:
        """Not in round 1: descriptions are compared, so they are of the same work."""
        return round != 1

    def finish(self, received: Received, trained: Trained) -> Finished:
        """The description in round 1, with no change of the model; then the change."""
        if received.round != 1:
            return Finished(self.built_in(trained), received.memory)
        metrics = {
            _DESCRIPTION.format(i): float(value) for i, value in enumerate(self._describe(trained))
        }
        stays = replace(trained, state=trained.start)
        # Pages that nobody writes take no memory, however many workers wait to be grouped.
        none_P = np.zeros(trained.start.trainable.size, np.float32)
        return Finished(self.built_in(stays, none_P), received.memory, metrics)

    def _describe(self, trained: Trained) -> Array:
        if self._options.approximator == "classifier":
            return projected(_last_layer(trained))
        assert trained.confidences is not None, "asked for by ``exemplars``"
        confidences = trained.confidences()
        if len(confidences) > MAX_DESCRIPTION:
            raise TrainingFailed(
                f"confidences of {len(confidences)} classes, more than {MAX_DESCRIPTION}: only "
                'algorithm.approximator = "classifier" describes so many'
            )
        return confidences

    # Coordinator half

    def check_header(self, header: UpdateHeader) -> None:
        """Take descriptions of finite numbers alone, distributions where they should be."""
        if header.round != 1:
            return
        values = np.array(_description(header))
        fits = len(values) > 0 and bool(np.isfinite(values).all())
        if fits and self._options.approximator == "confidence":
            fits = bool(values.min() >= 0) and abs(float(values.sum()) - 1) < 1e-3
        if not fits:
            raise UpdateInvalid(
                f"metrics {_DESCRIPTION.format(0)} ...: must describe the worker's labels"
            )

    def plan(self, request: PlanRequest) -> Plan:
        """Everybody in round 1, then chains of groups that the recipe's selection drew."""
        groups = _groups(request.memory)
        if not groups:
            chains = tuple(Chain((worker,)) for worker in request.candidates)
            return Plan(chains, len(chains))
        there: dict[str, list[str]] = defaultdict(list)
        for worker in request.candidates:
            # Whoever came after round 1 is a group alone.
            there[groups.get(worker, worker)].append(worker)
        count = max(1, round(self._options.share * len({*groups.values(), *there})))
        drawn = request.draw(sorted(there), min(count, len(there)))
        # A later attempt of a round asks for what is missing, not for all groups again.
        before = accumulate((len(there[name]) for name in drawn), initial=0)
        drawn = tuple(name for name, n in zip(drawn, before, strict=False) if n < request.size)
        lanes = [MAIN] * len(drawn)
        if self._options.interval > 1:
            lanes = [str(lane) for lane in shuffled(range(len(drawn)), "lane", request.round)]
        chains = tuple(
            Chain(tuple(shuffled(there[name], "order", request.round)), lane)
            for name, lane in zip(drawn, lanes, strict=True)
        )
        return Plan(chains, sum(len(chain.workers) for chain in chains))

    def lane_state(self, lane: str, base: ModelState, memory: Memory) -> ModelState:
        """A model of the bank; one that was not trained yet is what the bank began with."""
        for prefix in (_LANE + lane, _START):
            kept = _load(prefix, memory, base.schema)
            if kept is not None:
                return kept
        return base

    def weights(self, headers: Sequence[UpdateHeader], memory: Memory) -> list[float]:
        """Each update by its group's examples, or all alike where each group has its own model."""
        if self._options.interval > 1 or not _groups(memory):
            return [1.0] * len(headers)
        examples = _examples(headers, memory)
        return [examples[_group_of(header, memory)] for header in headers]

    def step(self, result: RoundResult) -> Outcome:
        """Make the groups; or move by what they did."""
        if not _groups(result.memory):
            return Outcome(result.base, self._grouped(result.headers))
        if self._options.interval > 1:
            return self._step_bank(result)
        weights = self.weights(result.headers, result.memory)
        total = sum(_examples(result.headers, result.memory).values())
        # The mean is over updates; a group's are added up.
        scale = sum(weights) / total
        return Outcome(_moved(result.base, result, MAIN, scale), result.memory)

    def _grouped(self, headers: Sequence[UpdateHeader]) -> Memory:
        opt = self._options
        rows = [_description(header) for header in headers]
        # Of another length than most: not the same classes, so it cannot be compared. Such a
        # worker is a group alone, like whoever comes later.
        length, _ = Counter(map(len, rows)).most_common(1)[0]
        fit = [i for i, row in enumerate(rows) if len(row) == length]
        described = Described(
            tuple(headers[i].worker_id for i in fit),
            np.array([rows[i] for i in fit]),
            np.array([headers[i].weight for i in fit]),
        )
        sizes = Sizes(examples=opt.min_examples, workers=opt.max_workers)
        groups = group(described, sizes, opt.grouping, opt.measure, opt.clusters)
        return {
            _GROUP + worker: np.array(number)
            for number, members in enumerate(groups)
            for worker in members
        }

    def _step_bank(self, result: RoundResult) -> Outcome:
        kept = dict(result.memory)
        if _load(_START, kept, result.base.schema) is None:
            kept.update(_saved(_START, result.base))
        for lane, aggregate in result.aggregates.items():
            start = self.lane_state(lane, result.base, result.memory)
            examples = _examples(result.headers_of(lane), result.memory)
            # One group each, but where a later attempt of the round had to draw another.
            scale = aggregate.updates / len(examples)
            kept.update(_saved(_LANE + lane, _moved(start, result, lane, scale)))
            seen = float(kept.get(_EXAMPLES + lane, 0.0))
            kept[_EXAMPLES + lane] = np.array(seen + sum(examples.values()))
        mean = _bank_mean(kept, result.base.schema)
        # Round 1 has made the groups only.
        if (result.round - 1) % self._options.interval == 0:
            kept = {key: array for key, array in kept.items() if key.startswith(_GROUP)}
        return Outcome(mean, kept)


def projected(vector_P: FloatVector) -> Array:
    """A vector's products with PROJECTED vectors of random signs (Achlioptas 2003), scaled so that
    squared lengths are kept on average. The signs are the same on every device.
    """
    vector = vector_P.astype(np.float64)
    rows = [
        np.frombuffer(hashlib.shake_256(b"fedseq %d" % i).digest((vector.size + 7) // 8), np.uint8)
        for i in range(PROJECTED)
    ]
    products = [vector @ (np.unpackbits(row)[: vector.size] * 2.0 - 1.0) for row in rows]
    return np.asarray(products) / float(np.sqrt(PROJECTED))


def _last_layer(trained: Trained) -> FloatVector:
    """The change of the last weight matrix and of what comes after it."""
    layout = list(trained.state.schema.layout(Kind.TRAINABLE))
    matrices = [place.start for param, place in layout if len(param.shape) > 1]
    return trained.delta[matrices[-1] :]


def _description(header: UpdateHeader) -> list[float]:
    names = (_DESCRIPTION.format(i) for i in range(MAX_DESCRIPTION))
    return [header.metrics[name] for name in takewhile(header.metrics.__contains__, names)]


def _groups(memory: Memory) -> dict[str, str]:
    """The group of each worker, by name."""
    return {
        key.removeprefix(_GROUP): _GROUP_NAME.format(int(number))
        for key, number in memory.items()
        if key.startswith(_GROUP)
    }


def _group_of(header: UpdateHeader, memory: Memory) -> str:
    number = memory.get(_GROUP + header.worker_id)
    return header.worker_id if number is None else _GROUP_NAME.format(int(number))


def _examples(headers: Sequence[UpdateHeader], memory: Memory) -> Mapping[str, float]:
    """Training examples of each group that took part."""
    total: dict[str, float] = defaultdict(float)
    for header in headers:
        total[_group_of(header, memory)] += header.weight
    return total


def _moved(start: ModelState, result: RoundResult, lane: str, scale: float) -> ModelState:
    aggregate = result.aggregates[lane]
    return stepped(start, aggregate, scale * aggregate.means[DELTA])


def _saved(prefix: str, state: ModelState) -> dict[str, Array]:
    return {f"{prefix}.{kind.value}": state.vector(kind) for kind in Kind}


def _load(prefix: str, memory: Memory, schema: Schema) -> ModelState | None:
    if f"{prefix}.{Kind.TRAINABLE.value}" not in memory:
        return None
    return ModelState(schema, *(memory[f"{prefix}.{kind.value}"] for kind in Kind))


def _bank_mean(memory: Memory, schema: Schema) -> ModelState:
    """The mean of the bank's models by the examples that each has seen since the last one."""
    lanes = sorted(key.removeprefix(_EXAMPLES) for key in memory if key.startswith(_EXAMPLES))
    seen = [float(memory[_EXAMPLES + lane]) for lane in lanes]
    models = [
        ModelState(schema, *(memory[f"{_LANE}{lane}.{kind.value}"] for kind in Kind))
        for lane in lanes
    ]
    return mean_model(models, seen)
