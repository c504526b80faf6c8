"""Chooses what a version is computed with: by the setting, or by measurement."""

from __future__ import annotations

import json
import logging
import math
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from fedfleet.data.golden import golden_batch
from fedfleet.data.images import Pixels
from fedfleet.models.card import ModelCard
from fedfleet_inference_api.backends.agreement import TOLERANCES, disagreement
from fedfleet_inference_api.backends.backend import (
    Answers,
    Backend,
    BackendMissingError,
    Prepared,
)
from fedfleet_inference_api.backends.bfloat16 import BFloat16Torch
from fedfleet_inference_api.backends.mixed import Mixed
from fedfleet_inference_api.backends.onnx_runtime import OnnxGraph, OnnxRuntime, export_graph
from fedfleet_inference_api.backends.plain import PlainTorch
from fedfleet_inference_api.backends.replaceable import Replaceable
from fedfleet_inference_api.backends.timing import Budget, Plan, measure, plan
from fedfleet_inference_api.freeing import give_back

logger = logging.getLogger(__name__)

AUTO = "auto"
TORCH = "torch"
NAMES = (TORCH, "torch-bfloat16", "onnx")
BUDGET_S = 3.0  # for all runs of a version's choice; making the backends is apart
GOLDEN_SHARE = 12  # a twelfth of it for each answer to the golden batch, if each is as quick
FIRST_GOLDEN, NEXT_GOLDEN = 8, 4  # images on which a version's backends have to agree
_KNOWN_ARCHITECTURES = 8


@dataclass(eq=False)
class _Known:
    """What is remembered of an architecture."""

    graph: OnnxGraph | None = None
    plan: Plan | None = None


@dataclass(eq=False)
class _Candidates:
    """The backends of one version, made as they are needed, each checked against plain torch."""

    card: ModelCard
    prepared: Prepared
    golden: Pixels
    want: Answers
    budget: Budget
    made: dict[str, Backend] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)


class Backends:
    """Makes the backends of versions; remembers for each architecture what was the fastest.

    Args:
        setting: ``auto`` or one of ``NAMES``.
        max_batch: images of a full batch.
        threads: processor threads of a backend, 0 leaves each library's own number.
    """

    def __init__(self, setting: str = TORCH, *, max_batch: int = 8, threads: int = 0) -> None:
        self._setting = setting
        self._max_batch = max_batch
        self._threads = threads
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()  # one version is measured at a time
        self._stopping = threading.Event()
        self._beside = ThreadPoolExecutor(1, "backend-chooser")

    def of(self, card: ModelCard, prepared: Prepared, *, is_awaited: bool = False) -> Backend:
        """The backend of a version; plain torch where nothing else can be had or agrees.

        Args:
            is_awaited: nothing else answers callers meanwhile, so with ``auto`` plain torch does
                at once, and what is faster takes its place when it is known.
        """
        plain = PlainTorch(prepared)
        if self._setting == TORCH or self._stopping.is_set():
            return plain
        if not is_awaited or self._setting != AUTO:
            return self._chosen(card, prepared)
        backend = Replaceable(plain)
        # A copy: a module is for one thread at a time, and the first is about to answer.
        chosen = self._beside.submit(self._chosen, card, deepcopy(prepared))
        chosen.add_done_callback(lambda done: _replace(backend, done))
        return backend

    def stop(self) -> None:
        """Choose no more; what is being chosen becomes plain torch after the run under way."""
        self._stopping.set()

    def close(self) -> None:
        """``stop``, and wait for it; nobody may call ``of`` any more."""
        self.stop()
        self._beside.shutdown(cancel_futures=True)

    def _chosen(self, card: ModelCard, prepared: Prepared) -> Backend:
        with self._lock:
            if self._threads:
                torch.set_num_threads(self._threads)
            return self._choose(card, prepared, PlainTorch(prepared))

    def _choose(self, card: ModelCard, prepared: Prepared, plain: PlainTorch) -> Backend:
        budget = Budget(BUDGET_S if self._setting == AUTO else math.inf, self._stopping)
        known = self._remembered(card)
        if known.plan is not None and known.plan.few == known.plan.many == TORCH:
            return plain  # there is nothing to agree with
        golden = golden_batch(card.inputs, NEXT_GOLDEN if known.plan else FIRST_GOLDEN)
        golden = golden[: _affordable(plain, golden, budget)]
        if not len(golden):
            return plain  # there is no time
        want = plain.run(golden)
        if want.ndim != (3 if card.kind == "detection" else 2) or not np.isfinite(want).all():
            return plain  # no answers; whoever warms the version up says so
        candidates = _Candidates(card, prepared, golden, want, budget, {TORCH: plain})
        if self._setting != AUTO:
            return self._made(self._setting, candidates, known) or plain
        if known.plan is not None and self._has(known.plan, candidates, known):
            return _planned(known.plan, candidates)
        is_odd, known.plan = known.plan is not None, None
        measured = self._measured(candidates, known)
        if not is_odd and not self._stopping.is_set():
            known.plan = measured  # the version after an odd one is measured again
        return _planned(measured, candidates) if measured else plain

    def _remembered(self, card: ModelCard) -> _Known:
        numbers = tuple(str(place) for place in range(len(card.classes)))  # names are no matter
        key = json.dumps(replace(card, classes=numbers).to_json(), sort_keys=True)
        known = self._known.pop(key, None) or _Known()
        self._known[key] = known  # the newest
        while len(self._known) > _KNOWN_ARCHITECTURES:
            self._known.pop(next(iter(self._known)))
        return known

    def _has(self, wanted: Plan, candidates: _Candidates, known: _Known) -> bool:
        names = (wanted.few, wanted.many)
        return all(self._made(name, candidates, known) is not None for name in names)

    def _measured(self, candidates: _Candidates, known: _Known) -> Plan | None:
        """What the times say; None where there was no time for any."""
        images = np.resize(candidates.golden, (self._max_batch, *candidates.golden.shape[1:]))
        agreeing = {
            name: self._made(name, candidates, known) for name in NAMES if candidates.budget.has()
        }
        times = measure(
            {name: one for name, one in agreeing.items() if one}, images, candidates.budget
        )
        if not times:
            return None
        chosen = plan(times, self._max_batch)
        logger.info(
            "backend_chosen",
            extra={
                "few": chosen.few,
                "many": chosen.many,
                "few_up_to": chosen.most,
                "batch": self._max_batch,
                "one_ms": {name: round(1e3 * found.one_s, 3) for name, found in times.items()},
                "batch_ms": {name: round(1e3 * found.full_s, 3) for name, found in times.items()},
            },
        )
        return chosen

    def _made(self, name: str, candidates: _Candidates, known: _Known) -> Backend | None:
        """A backend that agrees, or None; the log says why not, once for a version."""
        if name in candidates.refused:
            return None
        if name not in candidates.made:
            try:
                reason = self._make(name, candidates, known)
            except BackendMissingError as error:
                logger.info("backend_missing", extra={"backend": name, "reason": str(error)})
                candidates.refused.add(name)
                return None
            if reason:
                logger.warning("backend_refused", extra={"backend": name, "reason": reason})
                candidates.refused.add(name)
                return None
        return candidates.made[name]

    def _make(self, name: str, candidates: _Candidates, known: _Known) -> str:
        """Make and check a backend; returns what speaks against it.

        Raises:
            BackendMissingError: it cannot be had here.
        """
        try:
            with candidates.budget.paused():
                backend = self._build(name, candidates, known)
            got = backend.run(candidates.golden)
        except BackendMissingError:
            raise
        except Exception as error:
            # The supervisor of an experiment: a plug-in's module may fail in any way in a backend
            # that it was not written for, and plain torch still serves it.
            return repr(error)[:300]
        reason = disagreement(candidates.want, got, TOLERANCES[name])
        if not reason:
            candidates.made[name] = backend
        return reason

    def _build(self, name: str, candidates: _Candidates, known: _Known) -> Backend:
        if name == BFloat16Torch.name:
            return BFloat16Torch(candidates.prepared)
        if known.graph is None:
            known.graph = export_graph(candidates.prepared, candidates.card.inputs)
        return OnnxRuntime(candidates.prepared, known.graph, self._threads)


def _planned(wanted: Plan, candidates: _Candidates) -> Backend:
    few, many = candidates.made[wanted.few], candidates.made[wanted.many]
    return few if few is many else Mixed(few, many, wanted.most)


def _affordable(plain: PlainTorch, golden: Pixels, budget: Budget) -> int:
    """How many images of the golden batch there is time for; none where one takes too long."""
    count, one_s = 0, 0.0
    for _ in range(2):  # the first run sets things up
        if count < len(golden) and budget.has(one_s):
            started_s = budget.clock()
            plain.run(golden[:1])
            one_s = max(budget.clock() - started_s, 1e-6)
            count = int(min(len(golden), budget.seconds / GOLDEN_SHARE / one_s))
    return max(count, 1) if budget.has(one_s) else 0


def _replace(backend: Replaceable, done: Future[Backend]) -> None:
    """On the thread that chose, or on the one that closes."""
    if done.cancelled():
        return
    error = done.exception()
    if error is not None:
        logger.error("backend_not_chosen", exc_info=error)
        return
    backend.replace(done.result())
    give_back()  # what those were made of that were not chosen
