"""The local split: which of a worker's examples are held out, the same in every round."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedfleet.data.shard import Examples

IntVector = npt.NDArray[np.int64]


def split_validation(examples: Examples, fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Split into training and validation examples; both keep the order that they came in.

    A function of labels, fraction and seed alone, so a worker that keeps its data and its seed
    holds out the same examples in every round. Stratified: each class gives its share, what is
    left over after rounding down goes to the classes with the largest remainders (then the lowest
    label), and no class gives its last example. So the validation part can be smaller than
    ``fraction``, and empty.
    """
    held_out = np.empty(0, np.int64)
    if fraction:
        held_out = _held_out(examples.labels, fraction, seed)
    if not len(held_out):
        return examples, examples.take(held_out)
    is_held_out = np.zeros(len(examples), np.bool_)
    is_held_out[held_out] = True
    return (
        examples.take(np.flatnonzero(~is_held_out)),
        examples.take(np.flatnonzero(is_held_out)),
    )


def _held_out(labels: IntVector, fraction: float, seed: int) -> IntVector:
    classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    quotas = _quotas(counts, fraction)
    generator = np.random.default_rng(seed)
    chosen = [np.empty(0, np.int64)]
    for place in range(len(classes)):
        members = generator.permutation(np.flatnonzero(inverse == place))
        chosen.append(members[: quotas[place]])
    return np.concatenate(chosen)


def _quotas(counts: IntVector, fraction: float) -> IntVector:
    """How many examples each class gives."""
    wanted = int(np.floor(counts.sum() * fraction + 0.5))
    shares = counts * fraction
    most = counts - 1
    quotas: IntVector = np.minimum(np.floor(shares).astype(np.int64), most)
    order = np.argsort(-(shares - quotas), kind="stable")
    open_places = order[quotas[order] < most[order]]
    quotas[open_places[: wanted - int(quotas.sum())]] += 1
    return quotas
