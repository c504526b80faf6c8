"""Which classes a worker has examples of, as metrics of its update.

A worker says it where absent classes are masked in its loss (HeteroFL, Diao et al. 2021, arXiv
2010.01264, section 3.3): the rows of the output layer that it did not train must not count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fedfleet.algorithms.base import OWN_METRIC
from fedfleet.errors import UpdateInvalid

# A float64 holds so many classes as bits, exactly.
_BITS = 48
_CLASSES = OWN_METRIC + "classes."
_PLACES = frozenset(map(str, range(1000)))


def classes_as_metrics(labels: Collection[int]) -> dict[str, float]:
    """The classes that a worker has examples of, as metrics of its update."""
    words: dict[int, int] = {}
    for label in labels:
        words[label // _BITS] = words.get(label // _BITS, 0) | 1 << label % _BITS
    return {f"{_CLASSES}{place}": float(word) for place, word in sorted(words.items())}


def classes_in_metrics(metrics: Mapping[str, float]) -> tuple[int, ...] | None:
    """What ``classes_as_metrics`` wrote; None where a worker does not say.

    Raises:
        UpdateInvalid: metrics of this name that it does not write.
    """
    found: list[int] = []
    said = False
    for name, value in metrics.items():
        if not name.startswith(_CLASSES):
            continue
        place = name.removeprefix(_CLASSES)
        # One way to write each number: a word that came twice would count twice.
        numbered = place in _PLACES
        if not (numbered and 0 <= value < 2.0**_BITS) or value % 1:
            raise UpdateInvalid(f"metric {name} = {value:g}: does not say which classes there are")
        said = True
        word = int(value)
        found += [int(place) * _BITS + bit for bit in range(_BITS) if word >> bit & 1]
    return tuple(sorted(found)) if said else None
