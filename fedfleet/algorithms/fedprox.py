"""FedProx (Li et al. 2020, arXiv 1812.06127, Algorithm 2).

Local training minimises F_i(w) + mu/2 |w - x|^2: the gradient of each step gets mu (w - x), before
momentum and clipping as the loss form asks. With mu = 0 it is FedAvg, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedfleet.algorithms.base import GradientAdjuster, Received
from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.algorithms.vectors import parts_of
from fedfleet.types import FloatVector

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class FedProxOptions(FedAvgOptions):
    """Options of ``fedprox``.

    Args:
        mu: weight of the proximal term, >= 0; the paper tunes it from .001 to 1.
    """

    mu: float

    def __post_init__(self) -> None:
        FedAvgOptions.__post_init__(self)
        if not 0 <= self.mu < float("inf"):
            raise ValueError(f"mu = {self.mu}: must be 0 or more")


class FedProx(FedAvg):
    """FedAvg whose workers are held near the version that they received."""

    def __init__(self, options: FedProxOptions) -> None:
        super().__init__(options)
        self._mu = options.mu

    def adjuster(self, received: Received) -> GradientAdjuster | None:
        """Add mu (w - x)."""
        return proximal(self._mu, self.start_from(received).trainable)


def proximal(mu: float, start_P: FloatVector) -> GradientAdjuster | None:
    """The gradient of mu/2 |w - x|^2; None where mu is 0.

    Args:
        start_P: x, shape (P,).
    """
    if mu == 0:
        return None
    anchors = parts_of(start_P)

    def adjust(params: Sequence[Tensor]) -> None:
        for param, anchor in zip(params, anchors(params), strict=True):
            if param.grad is not None:
                param.grad.add_(param.detach() - anchor, alpha=mu)

    return adjust
