"""Random draws that are the same on every device, whatever its numpy version.

Each worker computes the partition for itself, so the draws of all must agree. numpy promises that
for the raw bits of a bit generator only, not for what ``Generator`` makes of them (NEP 19), so
permutations, gamma and normal variates are made here.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt


class Draws:
    """A stream of draws, a function of a seed and of labels that name its purpose."""

    def __init__(self, seed: int, *labels: str) -> None:
        text = "/".join((str(seed), *labels))
        self._bits = np.random.PCG64(int(hashlib.sha256(text.encode()).hexdigest(), 16))

    def uniform(self) -> float:
        """A number in (0, 1), a multiple of 2^-54; never 0, so that its logarithm is finite."""
        return ((int(self._bits.random_raw()) >> 11) + 0.5) * 2.0**-53

    def uniforms(self, count: int) -> npt.NDArray[np.float64]:
        """As ``uniform``, shape (count,)."""
        raw = np.asarray(self._bits.random_raw(count), dtype=np.uint64)
        numbers: npt.NDArray[np.float64] = (raw >> np.uint64(11)).astype(np.float64)
        return (numbers + 0.5) * 2.0**-53

    def permutation(self, count: int) -> npt.NDArray[np.int64]:
        """The numbers from 0 to count - 1 in random order."""
        keys = np.asarray(self._bits.random_raw(count), dtype=np.uint64)
        return np.argsort(keys, kind="stable").astype(np.int64)

    def normals(self, count: int) -> npt.NDArray[np.float64]:
        """Standard normal numbers, shape (count,), by Box and Muller 1958."""
        radius = np.sqrt(-2.0 * np.log(self.uniforms(count)))
        normal: npt.NDArray[np.float64] = radius * np.cos(2.0 * math.pi * self.uniforms(count))
        return normal

    def dirichlet(self, alpha: float, count: int) -> npt.NDArray[np.float64]:
        """Shares that add up to 1, symmetric Dirichlet with concentration alpha, shape (count,).

        Taken from the logarithms of gamma variates: for a small alpha the variates themselves
        would all round to zero.
        """
        logs = np.array([self._log_gamma_variate(alpha) for _ in range(count)])
        weights = np.exp(logs - logs.max())
        shares: npt.NDArray[np.float64] = weights / weights.sum()
        return shares

    def _log_gamma_variate(self, shape: float) -> float:
        """The logarithm of a gamma variate, by Marsaglia and Tsang 2000 (section 6 below 1)."""
        boost = 0.0
        if shape < 1.0:
            boost = math.log(self.uniform()) / shape
            shape += 1.0
        d = shape - 1.0 / 3.0
        c = 1.0 / math.sqrt(9.0 * d)
        while True:
            x = math.sqrt(-2.0 * math.log(self.uniform()))
            x *= math.cos(2.0 * math.pi * self.uniform())
            v = (1.0 + c * x) ** 3
            if v > 0.0 and math.log(self.uniform()) < 0.5 * x * x + d - d * v + d * math.log(v):
                return math.log(d) + math.log(v) + boost
