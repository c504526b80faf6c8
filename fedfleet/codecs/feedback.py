"""Error feedback: what a biased codec leaves out is added to the next update.

Seide 2014; Karimireddy 2019, arXiv 1901.09847, algorithm 2; with momentum correction and factor
masking: Lin 2018 (DGC), arXiv 1712.01887, sections 3.1 and 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedfleet.codecs.chain import Chain
from fedfleet.codecs.encoded import Encoded
from fedfleet.errors import SchemaMismatch
from fedfleet.types import Array, FloatVector

RESIDUAL = "residual"
MOMENTUM = "momentum"


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorFeedback:
    """Encodes ``p = delta + decay * e`` and keeps ``e = p - decoded(p)`` for the next time.

    Over any number of rounds with decay 1 the sum of what was decoded plus the residual is the sum
    of the deltas, up to float32's rounding.

    Args:
        decay: what is left of the residual after a round, in (0, 1]; below 1 for residuals that
            grow stale because a worker seldom takes part.
        momentum: 0 for none; else ``m = momentum * m + delta`` takes the delta's place, and m is
            set to zero where it was sent. Needs a sparse chain. The residual at those places is
            what the values' codec lost there: zero with ``topk`` alone.
    """

    decay: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay = {self.decay}: must be above 0 and at most 1")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum = {self.momentum}: must be at least 0 and below 1")

    def start(self, elements: int) -> dict[str, Array]:
        """What is kept before the first round."""
        names = (RESIDUAL, MOMENTUM) if self.momentum else (RESIDUAL,)
        return {name: np.zeros(elements, np.float32) for name in names}

    def encode(
        self, chain: Chain, delta_P: FloatVector, memory: Mapping[str, Array], seed: int
    ) -> tuple[Encoded, dict[str, Array]]:
        """Encode a delta with what was kept; nothing that is given is changed.

        Args:
            delta_P: float32, shape (P,).
            memory: from ``start`` or the previous round.

        Returns:
            What is sent, and what is kept for the next round.

        Raises:
            SchemaMismatch: what was kept is of another model.
            UpdateNotFinite, UpdateOutOfRange: the delta, or the sum, cannot be encoded.
            ValueError: momentum with a chain that is not sparse.
        """
        if self.momentum and not chain.is_sparse:
            raise ValueError(f"momentum correction needs a sparse codec, not {chain}")
        residual_P = _recall(memory, RESIDUAL, delta_P.size)
        if not self.momentum:
            pending_P = _plus(delta_P, residual_P, self.decay)
            encoded, _ = chain.encode_residual(pending_P, seed)
            return encoded, {RESIDUAL: pending_P}
        momentum_P = _plus(delta_P, _recall(memory, MOMENTUM, delta_P.size), self.momentum)
        pending_P = _plus(momentum_P, residual_P, self.decay)
        encoded, sent_K = chain.encode_residual(pending_P, seed)
        momentum_P[sent_K] = 0.0
        return encoded, {RESIDUAL: pending_P, MOMENTUM: momentum_P}


def _recall(memory: Mapping[str, Array], name: str, elements: int) -> FloatVector:
    kept_P = memory.get(name)
    if kept_P is None or kept_P.shape != (elements,) or kept_P.dtype != np.float32:
        found = "nothing" if kept_P is None else f"{kept_P.shape} {kept_P.dtype}"
        raise SchemaMismatch(
            f"the kept {name} holds {found}, expected ({elements},) float32; start it anew"
        )
    return kept_P


def _plus(delta_P: FloatVector, kept_P: FloatVector, factor: float) -> FloatVector:
    """``delta + factor * kept`` as a new vector."""
    # A sum past float32's range is refused by the codec, with its stable code.
    with np.errstate(over="ignore", invalid="ignore"):
        if factor == 1.0:
            sum_P: FloatVector = np.add(delta_P, kept_P, dtype=np.float32)
        else:
            sum_P = np.multiply(kept_P, np.float32(factor))
            sum_P += delta_P
    return sum_P
