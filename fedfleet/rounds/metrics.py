"""What the updates of a round say together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedfleet.algorithms.base import OWN_METRIC
from fedfleet.types import UpdateHeader


def mean_metrics(headers: Sequence[UpdateHeader]) -> dict[str, float]:
    """Return the mean of each metric, weighted by samples, over the updates that carry it.

    What an algorithm's worker half tells its coordinator half is left out, and so is a mean that
    is no number, of values near the largest there are: no JSON could carry it.
    """
    means = {}
    for name in sorted({name for header in headers for name in header.metrics}):
        if name.startswith(OWN_METRIC):
            continue
        having = [header for header in headers if name in header.metrics]
        total = sum(header.weight for header in having)
        mean = sum(header.metrics[name] * header.weight for header in having) / total
        if math.isfinite(mean):
            means[name] = mean
    return means
