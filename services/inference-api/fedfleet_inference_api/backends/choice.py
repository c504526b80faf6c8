"""Chooses what a version is computed with: by the setting, or by measurement."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
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
from fedfleet_inference_api.backends.timing import Plan, measure, plan

logger = logging.getLogger(__name__)

AUTO = "auto"
TORCH = "torch"
NAMES = (TORCH, "torch-bfloat16", "onnx")
# Another version of an architecture takes what the one before took, for so long.
REMEASURE_S = 3600.0
FIRST_GOLDEN, NEXT_GOLDEN = 8, 4  # images on which a version's backends have to agree
_KNOWN_ARCHITECTURES = 8


@dataclass(eq=False)
class _Known:
    """What is remembered of an architecture."""

    graph: OnnxGraph | None = None
    plan: Plan | None = None
    until_s: float = 0.0  # when it is measured again


@dataclass(eq=False)
class _Candidates:
    """The backends of one version, made as they are needed, each checked against plain torch."""

    card: ModelCard
    prepared: Prepared
    golden: Pixels
    want: Answers
    made: dict[str, Backend] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)


class Backends:
    """Makes the backends of versions; remembers for each architecture what was the fastest.

    Args:
        setting: ``auto`` or one of ``NAMES``.
        max_batch: images of a full batch.
        threads: processor threads of a backend, 0 leaves each library's own number.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        setting: str = TORCH,
        *,
        max_batch: int = 8,
        threads: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._setting = setting
        self._max_batch = max_batch
        self._threads = threads
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()  # one version is measured at a time

    def of(self, card: ModelCard, prepared: Prepared) -> Backend:
        """The backend of a version; plain torch where nothing else can be had or agrees."""
        plain = PlainTorch(prepared)
        if self._setting == TORCH:
            return plain
        with self._lock:
            if self._threads:
                torch.set_num_threads(self._threads)
            return self._choose(card, prepared, plain)

    def _choose(self, card: ModelCard, prepared: Prepared, plain: PlainTorch) -> Backend:
        known = self._remembered(card)
        golden = golden_batch(card.inputs, NEXT_GOLDEN if known.plan else FIRST_GOLDEN)
        want = plain.run(golden)
        if want.ndim != (3 if card.kind == "detection" else 2) or not np.isfinite(want).all():
            return plain  # no answers; whoever warms the version up says so
        candidates = _Candidates(card, prepared, golden, want, {TORCH: plain})
        if self._setting != AUTO:
            return self._made(self._setting, candidates, known) or plain
        now_s = self._clock()
        if known.plan is not None and now_s < known.until_s:
            if self._has(known.plan, candidates, known):
                return _planned(known.plan, candidates)
            known.until_s = now_s  # this version is an odd one; the next is measured again
        else:
            known.until_s = now_s + REMEASURE_S
        known.plan = self._measured(candidates, known)
        return _planned(known.plan, candidates)

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

    def _measured(self, candidates: _Candidates, known: _Known) -> Plan:
        images = np.resize(candidates.golden, (self._max_batch, *candidates.golden.shape[1:]))
        agreeing = {name: self._made(name, candidates, known) for name in NAMES}
        times = measure({name: one for name, one in agreeing.items() if one}, images)
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
