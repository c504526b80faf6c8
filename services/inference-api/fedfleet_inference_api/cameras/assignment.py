"""The best assignment of rows to columns: shortest augmenting paths, in numpy alone.

Kuhn's Hungarian method in the form of Jonker and Volgenant (1987, "A shortest augmenting path
algorithm for dense and sparse linear assignment problems"), O(n^3) with the inner loop in numpy.

Legend: N = rows, M = columns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def best_pairs(gains: Matrix, least: float) -> list[tuple[int, int]]:
    """Pair rows with columns so that the sum of gains is largest; each is in one pair at most.

    Args:
        gains: shape (N, M), finite, 0 or more.
        least: only pairs with this gain or more may be made, above 0.

    Returns:
        (row, column) by row. Whom no pair helps stays alone.
    """
    if not gains.size:
        return []
    # A pair below the limit gains nothing, so the best assignment has no use for it.
    allowed = np.where(gains >= least, gains, 0.0)
    is_wide = allowed.shape[0] <= allowed.shape[1]
    columns = _assign(-allowed if is_wide else -allowed.T)
    pairs = [(row, int(column)) for row, column in enumerate(columns)]
    if not is_wide:
        pairs = sorted((column, row) for row, column in pairs)
    return [(row, column) for row, column in pairs if gains[row, column] >= least]


def _assign(costs: Matrix) -> npt.NDArray[np.int64]:
    """The column of each row at the least sum of costs (N, M), N no more than M."""
    count, width = costs.shape
    of_row = np.zeros(count + 1)  # potentials; place 0 stands for "not assigned yet"
    of_column = np.zeros(width + 1)
    row_at = np.zeros(width + 1, np.int64)  # row of each column, counted from 1
    for row in range(1, count + 1):
        row_at[0] = row
        here, came_from = 0, np.zeros(width + 1, np.int64)
        distance = np.full(width + 1, np.inf)
        is_done = np.zeros(width + 1, np.bool_)
        while row_at[here]:
            is_done[here] = True
            at = int(row_at[here])
            reduced = np.append(np.inf, costs[at - 1] - of_row[at] - of_column[1:])
            nearer = ~is_done & (reduced < distance)
            distance[nearer], came_from[nearer] = reduced[nearer], here
            here = int(np.argmin(np.where(is_done, np.inf, distance)))
            step = distance[here]
            of_row[row_at[is_done]] += step
            of_column[is_done] -= step
            distance[~is_done] -= step
        while here:  # turn the path around: each column takes the row before it
            row_at[here] = row_at[came_from[here]]
            here = int(came_from[here])
    columns = np.zeros(count, np.int64)
    taken = np.flatnonzero(row_at[1:])
    columns[row_at[1:][taken] - 1] = taken
    return columns
