"""Vectors that codecs must take, for property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from fedfleet.codecs.chain import Chain, parse_chain
from fedfleet.codecs.encoded import MAX_ABS
from fedfleet.types import FloatVector

CHAINS = (
    "identity",
    "float16",
    "bfloat16",
    "int8",
    "int8:nearest",
    "int4",
    "int4:nearest",
    "int2",
    "int2:nearest",
    "sign",
    "eden:1",
    "eden:2",
    "eden:3",
    "eden:4",
    "eden:1:biased",
    "eden:3:biased",
    "topk:0.01",
    "topk:0.1|int8",
    "topk:0.7|int4:nearest",
    "topk:1",
    "topk:0.3|sign",
    "topk:0.2|eden:4",
    "topk:0.05|bfloat16",
    "topk:0.05|float16",
    "stc:0.02",
    "stc:0.6",
    "identity|deflate",
    "float16|deflate",
    "int8|deflate",
    "int4:nearest|deflate",
    "int2|deflate",
    "sign|deflate",
    "eden:2|deflate",
)
SIZES = (0, 1, 2, 3, 7, 8, 9, 127, 128, 129, 255, 256, 257, 1000, 1023, 1025, 5001)
SCALES = (0.0, 1e-45, 1e-40, 2.0**-126, 1e-20, 1e-3, 1.0, 6e4, 1e20, MAX_ABS / 2)
KINDS = ("normal", "heavy", "constant", "sparse", "two values", "layers")


def vector(kind: str, size: int, scale: float, seed: int) -> FloatVector:
    """A vector whose largest magnitude is at most the scale."""
    random = np.random.default_rng(seed)
    if kind == "constant":
        values = np.ones(size)
    elif kind == "two values":
        values = random.choice([-1.0, 1.0], size)
    elif kind == "sparse":
        values = random.normal(size=size) * (random.random(size) < 0.01)
    elif kind == "heavy":
        values = random.standard_t(2, size)
    else:
        values = random.normal(size=size)
        if kind == "layers":
            values *= 10.0 ** -(np.arange(size) // 100 % 6)
    largest = np.abs(values).max(initial=0.0)
    return (values / (largest or 1.0) * scale).astype(np.float32)


vectors = st.builds(
    vector,
    st.sampled_from(KINDS),
    st.one_of(st.sampled_from(SIZES), st.integers(0, 700)),
    st.sampled_from(SCALES),
    st.integers(0, 2**32 - 1),
)
seeds = st.integers(0, 2**64 - 1)


def sparing(chain: Chain, elements: int, seed: int) -> Chain:
    """The chain with some places spared; none of them, all of them, or spans that touch too."""
    random = np.random.default_rng(seed)
    count = 2 * int(random.integers(0, 6))
    ends = np.sort(random.integers(0, elements + 1, count))
    spans = tuple(slice(int(a), int(b)) for a, b in ends.reshape(-1, 2))
    return chain.sparing(spans if random.random() < 0.9 else (slice(0, elements),), elements)


@st.composite
def cases(draw: st.DrawFn, texts: tuple[str, ...] = CHAINS) -> tuple[Chain, FloatVector]:
    """A chain, with places spared or not, and a vector that it must take."""
    values = draw(vectors)
    chain = parse_chain(draw(st.sampled_from(texts)))
    if draw(st.booleans()):
        chain = sparing(chain, values.size, draw(st.integers(0, 2**32)))
    halves = "float16" in str(chain).split("|") or (str(chain).startswith("stc"))
    assume(not halves or np.abs(values).max(initial=0) <= 65504)
    return chain, values
