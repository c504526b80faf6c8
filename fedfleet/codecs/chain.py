"""A codec chain as a recipe names it: ``int8``, ``topk:0.01|int8``, ``eden:2``.

A chain is a sparsifier, a codec of values, a sparsifier and then a codec of values, or a codec of
values and then ``deflate``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedfleet.codecs.cast import BFloat16, Float16, Identity
from fedfleet.codecs.deflate import Deflate
from fedfleet.codecs.eden import CENTROIDS, Eden
from fedfleet.codecs.encoded import Encoded, ErrorBound, Step, check_elements
from fedfleet.codecs.places import Places
from fedfleet.codecs.sign import Sign
from fedfleet.codecs.sparse import Sparsifier, sparse_ternary, top_k
from fedfleet.codecs.uniform import Uniform
from fedfleet.codecs.values import ValueCodec, check_size, decode_blocks, decode_dense, names
from fedfleet.errors import UpdateInvalid
from fedfleet.types import Array, FloatVector


@dataclass(frozen=True, slots=True)
class Chain:
    """Encodes float32 vectors. One of the two is set.

    Args:
        text: as the recipe writes it.
    """

    text: str
    dense: ValueCodec | None
    sparse: Sparsifier | None

    def __str__(self) -> str:
        return self.text

    @property
    def steps(self) -> tuple[Step, ...]:
        """What ``Encoded.steps`` of this chain always is."""
        return self.sparse.steps if self.sparse else self._dense.steps

    @property
    def is_sparse(self) -> bool:
        return self.sparse is not None

    @property
    def has_exact_size(self) -> bool:
        """Whether so many elements always take ``max_bytes``."""
        return self.sparse is None and self._dense.has_exact_size

    @property
    def is_unbiased(self) -> bool:
        """Whether ``decode(encode(x, seed))`` is x in the mean over seeds; if not, feed back."""
        return self.sparse is None and self._dense.is_unbiased

    @property
    def _dense(self) -> ValueCodec:
        assert self.dense is not None
        return self.dense

    def sparing(self, spans: tuple[slice, ...], elements: int) -> Chain:
        """The chain that sends some places of every vector of so many elements whatever they hold.

        Its steps are the same: both ends must spare the same places. A dense chain sends all.

        Args:
            spans: in order and apart.

        Raises:
            ValueError: they are not, or pass the elements.
        """
        if not self.sparse or not spans:
            return self
        return replace(self, sparse=self.sparse.sparing(Places(spans, elements)))

    def max_bytes(self, elements: int) -> int:
        """The most bytes that so many elements take; a receiver refuses more unread."""
        check_elements(elements)
        return self.sparse.max_size(elements) if self.sparse else self._dense.size(elements)

    def encode(self, values_P: FloatVector, seed: int) -> Encoded:
        """Encode; the same bytes for the same values and seed.

        Args:
            values_P: float32, shape (P,); not changed. ``identity`` keeps a view of it.
            seed: in [0, 2^64); sent along where the decoder needs it.

        Raises:
            UpdateNotFinite, UpdateOutOfRange: values that the chain cannot hold.
        """
        values_P = _flat(values_P)
        if self.sparse:
            return Encoded(self.steps, values_P.size, self.sparse.encode(values_P, seed)[0])
        return Encoded(self.steps, values_P.size, self._dense.encode(values_P, seed))

    def encode_residual(self, values_P: FloatVector, seed: int) -> tuple[Encoded, Array | None]:
        """Encode, and leave in ``values_P`` what the receiver will not get.

        Returns:
            What ``encode`` returns, and the positions sent (int64, None of a dense chain).

        Raises:
            As ``encode``; the values are then unchanged.
        """
        check_elements(values_P.size)
        if self.sparse:
            data, chosen_K = self.sparse.encode(values_P, seed)
            encoded = Encoded(self.steps, values_P.size, data)
            sent_K, values_K = self.sparse.decode(memoryview(data), values_P.size, chosen_K)
            values_P[sent_K] -= values_K
            return encoded, sent_K
        encoded = Encoded(self.steps, values_P.size, bytes(self._dense.encode(values_P, seed)))
        for start, block_B in self.decode_blocks(encoded):
            values_P[start : start + block_B.size] -= block_B
        return encoded, None

    def check(self, encoded: Encoded) -> None:
        """Check what can be known before anything is allocated.

        Raises:
            UpdateInvalid: of another chain, or of a size that cannot be.
            LimitExceeded: too many elements.
        """
        if encoded.steps != self.steps:
            raise UpdateInvalid(
                f"encoded with {names(encoded.steps)}, the recipe asks for {self.text}"
            )
        most = self.max_bytes(encoded.elements)
        if not self.sparse:
            check_size(self._dense, len(encoded.data), encoded.elements)
        elif len(encoded.data) > most:
            raise UpdateInvalid(
                f"{len(encoded.data)} bytes for {encoded.elements} elements of {self.text}, "
                f"at most {most}"
            )

    def decode(self, encoded: Encoded) -> FloatVector:
        """Decode into a float32 vector, shape (P,).

        Raises:
            UpdateInvalid, UpdateNotFinite, LimitExceeded: not what ``encode`` writes.
        """
        if not self.sparse:
            self.check(encoded)
            return decode_dense(self._dense, encoded.data, encoded.elements)
        positions_K, values_K = self.decode_sparse(encoded)
        values_P = np.zeros(encoded.elements, np.float32)
        values_P[positions_K] = values_K
        return values_P

    def decode_blocks(self, encoded: Encoded) -> Iterator[tuple[int, FloatVector]]:
        """Decode a dense chain block by block: pairs of (start, float32 values).

        A block is valid until the next is asked for; a fault may show after some blocks.

        Raises:
            As ``decode``.
        """
        self.check(encoded)
        return decode_blocks(self._dense, encoded.data, encoded.elements)

    def decode_sparse(self, encoded: Encoded) -> tuple[Array, FloatVector]:
        """Decode a sparse chain: positions (int64, increasing, shape (K,)) and their values.

        Raises:
            As ``decode``.
        """
        assert self.sparse is not None
        self.check(encoded)
        return self.sparse.decode(memoryview(encoded.data), encoded.elements)

    def error_bound(self, values_P: FloatVector) -> ErrorBound:
        """Bound the squared error on these values; each codec states its formula and source."""
        return (self.sparse or self._dense).error_bound(_flat(values_P))


def parse_chain(text: str) -> Chain:
    """Read a chain from a recipe.

    Raises:
        ValueError: an unknown codec, a bad parameter, or codecs that cannot follow each other.
    """
    sparsifier: Callable[[ValueCodec], Sparsifier] | None = None
    found: list[str] = []
    codec: ValueCodec | None = None
    for step in text.split("|"):
        name, *arguments = step.split(":")
        if name in SPARSIFIERS:
            if found:
                raise ValueError(f"{name} after {found[-1]}: a sparsifier comes first, and once")
            sparsifier = SPARSIFIERS[name](name, arguments)
        elif name == "deflate":
            codec = _deflate(found, arguments, codec)
        elif name in VALUE_CODECS:
            if codec is not None or found[:1] == ["stc"]:
                raise ValueError(f"{name} after {found[-1]}: nothing can follow {found[-1]}")
            codec = VALUE_CODECS[name](name, arguments)
        else:
            raise ValueError(f"no codec {name!r}; allowed: {', '.join(CODECS)}")
        found.append(name)
    if sparsifier is None:
        return Chain(text, codec, None)
    return Chain(text, None, sparsifier(codec or Identity()))


def _plain(make: Callable[[], ValueCodec]) -> Callable[[str, list[str]], ValueCodec]:
    def parse(name: str, arguments: list[str]) -> ValueCodec:
        if arguments:
            raise ValueError(f"{name} takes no parameter, got {':'.join(arguments)!r}")
        return make()

    return parse


def _uniform(name: str, arguments: list[str]) -> ValueCodec:
    rounding = ":".join(arguments) or "stochastic"
    if rounding not in ("stochastic", "nearest"):
        raise ValueError(f"{name}: no rounding {rounding!r}; allowed: stochastic, nearest")
    return Uniform(int(name.removeprefix("int")), nearest=rounding == "nearest")


def _eden(name: str, arguments: list[str]) -> ValueCodec:
    bits, *rest = arguments or [""]
    if bits not in map(str, CENTROIDS) or rest not in ([], ["biased"]):
        raise ValueError(
            f"{name}:{':'.join(arguments)}: must be eden:BITS or eden:BITS:biased, BITS 1 to 4"
        )
    return Eden(int(bits), biased=bool(rest))


def _deflate(found: list[str], arguments: list[str], codec: ValueCodec | None) -> ValueCodec:
    if arguments:
        raise ValueError(f"deflate takes no parameter, got {':'.join(arguments)!r}")
    if found[:1] and found[0] in SPARSIFIERS:
        raise ValueError(f"deflate after {found[0]}: leave it out, {found[0]} deflates its values")
    if codec is None or found[-1] == "deflate":
        raise ValueError("deflate comes last, once, and after a codec: int8|deflate")
    return Deflate(codec)


def _ratio(name: str, arguments: list[str]) -> float:
    text = ":".join(arguments)
    ratio = float(text) if re.fullmatch(r"\d*\.?\d+(e-?\d+)?", text, re.ASCII) else math.nan
    if not 0 < ratio <= 1:
        raise ValueError(f"{name}:{text}: must be {name}:RATIO, RATIO above 0 and at most 1")
    return ratio


def _topk(name: str, arguments: list[str]) -> Callable[[ValueCodec], Sparsifier]:
    ratio = _ratio(name, arguments)
    return lambda values: top_k(ratio, values)


def _stc(name: str, arguments: list[str]) -> Callable[[ValueCodec], Sparsifier]:
    ratio = _ratio(name, arguments)
    return lambda _: sparse_ternary(ratio)


VALUE_CODECS: Mapping[str, Callable[[str, list[str]], ValueCodec]] = {
    "identity": _plain(Identity),
    "float16": _plain(Float16),
    "bfloat16": _plain(BFloat16),
    "int8": _uniform,
    "int4": _uniform,
    "int2": _uniform,
    "sign": _plain(Sign),
    "eden": _eden,
}
SPARSIFIERS: Mapping[str, Callable[[str, list[str]], Callable[[ValueCodec], Sparsifier]]] = {
    "topk": _topk,
    "stc": _stc,
}
CODECS = (*VALUE_CODECS, "deflate", *SPARSIFIERS)


def _flat(values_P: FloatVector) -> FloatVector:
    check_elements(values_P.size)
    return np.ascontiguousarray(values_P, np.float32).reshape(-1)
