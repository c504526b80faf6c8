"""Small tensors are never sparsified: biases, normalisation, the last layer of a small model.

They are a thousandth of a model's elements and matter more than their magnitude says.
"""

from __future__ import annotations

from fedfleet.codecs.chain import Chain
from fedfleet.types import Kind, Schema

# Elements; a tensor with more of them may be sparsified.
SMALL_TENSOR = 1024


def spare_small(chain: Chain, schema: Schema) -> Chain:
    """A recipe's chain for one model's trainable vector; both ends derive the same from the schema.

    A sparse chain sends tensors of at most ``SMALL_TENSOR`` elements densely, through its own codec
    of values. That holds for a model of small tensors alone too: it is sent densely as a whole.
    """
    return chain.sparing(_small_spans(schema), schema.elements(Kind.TRAINABLE))


def _small_spans(schema: Schema) -> tuple[slice, ...]:
    """The places of small tensors in the trainable vector; those side by side are one span."""
    spans: list[slice] = []
    for param, place in schema.layout(Kind.TRAINABLE):
        if not 0 < param.elements <= SMALL_TENSOR:
            continue
        if spans and spans[-1].stop == place.start:
            place = slice(spans.pop().start, place.stop)
        spans.append(place)
    return tuple(spans)
