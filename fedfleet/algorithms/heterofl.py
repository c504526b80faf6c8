"""HeteroFL (Diao et al. 2021, arXiv 2010.01264): workers train slices of the model that they can
carry, and each coordinate becomes the plain mean of those that trained it.

Who trains which width is the recipe's ``[levels]``, and so is the slice: prefixes of every layer as
in the paper, or ones that roll on with each round, which is FedRolex (Alam et al. 2022, arXiv
2212.01548). The aggregation by coordinate is that of any run with levels
(``aggregation/coverage.py``); HeteroFL's own is that every worker counts alike (the authors' code
divides by the number of owners, not by samples), and that labels may be masked
(``training.mask_absent``). FjORD (Horvath et al. 2021, arXiv 2102.13451) is the same with
``training.ordered_dropout``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class HeteroFLOptions:
    """Options of ``heterofl``.

    Args:
        server_lr: step along the mean delta, > 0; 1 is the paper's.
        weighting: ``uniform``, every worker alike, as the authors' code; or by ``samples``.
    """

    server_lr: float = 1.0
    weighting: Literal["uniform", "samples"] = "uniform"

    def __post_init__(self) -> None:
        if not 0 < self.server_lr < float("inf"):
            raise ValueError(f"server_lr = {self.server_lr}: must be above 0")


class HeteroFL(FedAvg):
    """FedAvg of slices, every worker alike."""

    needs_levels = True

    def __init__(self, options: HeteroFLOptions) -> None:
        super().__init__(FedAvgOptions(server_lr=options.server_lr, weighting=options.weighting))
