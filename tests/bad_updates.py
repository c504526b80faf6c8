"""Updates with one flaw each, put together byte by byte from docs/codecs.md.

They are of ``hidden = [40]`` on the digits: the first layer's weights are sparsified, the other
tensors are spared.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedfleet.codecs.chain import parse_chain
from fedfleet.types import Schema
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1 import types_pb2 as types_pb
from fedfleet.wire.codec_steps import steps_to_messages
from fedfleet.wire.updates import EncodedUpdate

TOPK, STC, INT8, DEFLATED = "topk:0.05|int8", "stc:0.05", "int8", "int8|deflate"
REST, SPARED = 64 * 40, 40 + 40 * 10 + 10
ELEMENTS = REST + SPARED
KEPT = REST // 20
GROUP = 256  # values that share a scale
NAN, INF = float("nan"), float("inf")


# Payloads


def part(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data


def segment(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def int8(count: int, *first_scales: float) -> bytes:
    """One segment of ``int8``: a scale for each group, then the codes."""
    scales = [*first_scales, *[1e-3] * (-(-count // GROUP) - len(first_scales))]
    codes = np.random.default_rng(0).binomial(20, 0.5, count)
    return floats(*scales) + codes.astype(np.uint8).tobytes()


def rice(gaps: Sequence[int], bits: int = 4, head: bytes | None = None) -> bytes:
    """Positions: the parameter, a plane for each bit of the remainders, the quotients in unary."""
    array = np.array(gaps)
    planes = [np.packbits(((array >> bit) & 1).astype(np.uint8)).tobytes() for bit in range(bits)]
    unary = "".join("0" * (gap >> bits) + "1" for gap in gaps)
    packed = np.packbits(np.array(list(unary), np.uint8)).tobytes()
    return (bytes([bits]) if head is None else head) + b"".join(planes) + packed


# Every twentieth place; the last one is the last of the vector.
GAPS = [19] * KEPT


def topk(
    positions: bytes = rice(GAPS),
    values: bytes = segment(int8(KEPT)),
    spared: bytes = segment(int8(SPARED)),
) -> bytes:
    return part(spared) + part(positions) + values


def stc(
    scale: float = 1e-3, positions: bytes = rice(GAPS), spared: bytes = bytes(2 * SPARED)
) -> bytes:
    values = floats(scale) + segment(bytes(KEPT // 8))
    return part(segment(spared)) + part(positions) + values


def raw_deflate(data: bytes, *, is_final: bool = True) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush(zlib.Z_FINISH if is_final else zlib.Z_FULL_FLUSH)


def flipped(data: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in data)


# Deflated: a thousand times what is announced, or exactly that and something else.
PLAIN = int8(ELEMENTS)
BOMB = raw_deflate(bytes(1000 * len(PLAIN)))
PACKED = raw_deflate(PLAIN)
ABSENT = [9] * (REST // 10)

PAYLOADS_THAT_ARE_FINE = [
    (INT8, PLAIN),
    (DEFLATED, segment(PLAIN)),
    (DEFLATED, segment(PACKED)),
    (TOPK, topk()),
    ("topk:0.9|int8", topk(rice(ABSENT), segment(int8(9 * REST // 10)))),
    (STC, stc()),
]


# Cases


@dataclass(frozen=True)
class Bad:
    """An update with one flaw.

    Args:
        code: what it is refused with.
        says: words of the reason.
        make: puts the flaw into an update that is right.
    """

    name: str
    uplink: str
    code: str
    says: str
    make: Callable[[EncodedUpdate], EncodedUpdate]

    def __str__(self) -> str:
        return f"{self.uplink} {self.name}".replace(" ", "-")


def payload(name: str, uplink: str, data: bytes, says: str, code: str = "UPDATE_INVALID") -> Bad:
    return Bad(name, uplink, code, says, lambda update: sealed(update, data))


def header(
    name: str,
    change: Callable[[pb.UpdateHeader], object],
    says: str,
    code: str = "UPDATE_INVALID",
    uplink: str = TOPK,
) -> Bad:
    def make(update: EncodedUpdate) -> EncodedUpdate:
        changed = copied(update)
        change(changed.header)
        return changed

    return Bad(name, uplink, code, says, make)


def copied(update: EncodedUpdate) -> EncodedUpdate:
    message = pb.UpdateHeader()
    message.CopyFrom(update.header)
    return EncodedUpdate(message, update.payload)


def sealed(update: EncodedUpdate, data: bytes) -> EncodedUpdate:
    """The update with another payload, its sizes and its digest as they should be."""
    message = copied(update).header
    message.sections[0].encoded_bytes = message.payload_bytes = len(data)
    message.payload_digest = hashlib.sha256(data).hexdigest()
    return EncodedUpdate(message, data)


def assign(**fields: Any) -> Callable[[pb.UpdateHeader], None]:
    def change(message: pb.UpdateHeader) -> None:
        for name, value in fields.items():
            setattr(message, name, value)

    return change


def section(**fields: Any) -> Callable[[pb.UpdateHeader], None]:
    """Changes the trainable section's line."""

    def change(message: pb.UpdateHeader) -> None:
        for name, value in fields.items():
            setattr(message.sections[0], name, value)

    return change


def codec(text: str) -> Callable[[pb.UpdateHeader], None]:
    def change(message: pb.UpdateHeader) -> None:
        del message.sections[0].codec[:]
        message.sections[0].codec.extend(steps_to_messages(parse_chain(text).steps))

    return change


def huge(size_bytes: int) -> Callable[[pb.UpdateHeader], None]:
    def change(message: pb.UpdateHeader) -> None:
        message.sections[0].encoded_bytes = message.payload_bytes = size_bytes

    return change


def empty_sections(count: int) -> Callable[[pb.UpdateHeader], None]:
    """Adds sections that cost nothing: an mlp has no statistics."""
    info = types_pb.SectionInfo(
        kind=types_pb.SECTION_KIND_STATISTIC,
        codec=steps_to_messages(parse_chain("identity").steps),
    )

    def change(message: pb.UpdateHeader) -> None:
        for number in range(count):
            info.name = f"more-{number}"
            message.sections.append(info)

    return change


def twice(message: pb.UpdateHeader) -> None:
    message.sections.append(message.sections[0])


def another_trainable(message: pb.UpdateHeader) -> None:
    """The same section under two names, of sizes that add up."""
    twice(message)
    message.sections[-1].name = "again"
    size = message.payload_bytes
    message.sections[0].encoded_bytes = size // 2
    message.sections[-1].encoded_bytes = size - size // 2


NOT_FINITE = "UPDATE_NOT_FINITE"
LATER = [19] * (KEPT - 1)
BAD_PAYLOADS = [
    payload("last position past the vector", TOPK, topk(rice([*LATER, 20])), "past the last"),
    payload("repeated gap leaves the vector", TOPK, topk(rice([20] * KEPT)), "past the last"),
    payload("quotient far out", TOPK, topk(rice([*LATER, 19 + (100 << 4)])), "past the last"),
    payload("a position too few", TOPK, topk(rice(LATER)), "127 positions, expected 128"),
    payload("a position too many", TOPK, topk(rice([*LATER, 8, 10])), "positions, expected 128"),
    payload("parameter 32", TOPK, topk(rice(GAPS, head=b"\x20")), "without a valid parameter"),
    payload("parameters missing", TOPK, topk(b"\xff" + bytes(20)), "positions"),
    payload("no positions", TOPK, topk(b""), "0 bytes for 128 positions"),
    payload("planes cut", TOPK, topk(rice(GAPS)[:50]), "end too early"),
    payload("positions padded", TOPK, topk(rice(GAPS) + b"\0"), "128 positions"),
    payload("more positions than needed", TOPK,
            topk(bytes(140), segment(raw_deflate(int8(KEPT)))), "140 bytes of positions"),
    payload("absent past the vector", "topk:0.9|int8",
            topk(rice([*ABSENT[1:], 10]), segment(int8(9 * REST // 10))), "past the last"),
    payload("positions of 2^62 bytes", TOPK,
            part(segment(int8(SPARED))) + (1 << 62).to_bytes(8, "little") + rice(GAPS),
            "bytes too early"),
    payload("spared part swallows all", TOPK, b"\xff" * 8 + topk()[8:], "bytes too early"),
    payload("one byte", TOPK, b"\0", "bytes too early"),
    payload("values cut", TOPK, topk(values=segment(int8(KEPT)[:-1])), "damaged"),
    payload("values padded", TOPK, topk(values=segment(int8(KEPT)) + b"\0"), "bytes"),
    payload("a value too many", TOPK, topk(values=segment(int8(KEPT + 1))), "137 bytes"),
    payload("a spared value too few", TOPK, topk(spared=segment(int8(SPARED - 1))), "damaged"),
    payload("scale NaN", TOPK, topk(values=segment(int8(KEPT, NAN))), "NaN", NOT_FINITE),
    payload("scale infinite", TOPK, topk(values=segment(int8(KEPT, INF))), "infinite", NOT_FINITE),
    payload("spared scale NaN", TOPK, topk(spared=segment(int8(SPARED, NAN))), "NaN", NOT_FINITE),
    payload("scale negative", TOPK, topk(values=segment(int8(KEPT, -1e-3))), "scale"),
    payload("values are a bomb", TOPK,
            topk(values=segment(raw_deflate(bytes(50_000)))), "do not come to 132 bytes"),
    payload("scale NaN", STC, stc(NAN), "NaN", NOT_FINITE),
    payload("scale infinite", STC, stc(INF), "infinite", NOT_FINITE),
    payload("scale negative", STC, stc(-1.0), "scale"),
    payload("repeated gap leaves the vector", STC,
            stc(positions=rice([20] * KEPT)), "past the last"),
    payload("spared value NaN", STC, stc(spared=b"\x00\x7e" + bytes(2 * SPARED - 2)),
            "NaN", NOT_FINITE),
    payload("first scale NaN", INT8, int8(ELEMENTS, NAN), "NaN", NOT_FINITE),
    payload("last scale infinite", INT8, int8(ELEMENTS, *[1e-3] * 11, INF), "infinite", NOT_FINITE),
    payload("scale negative", INT8, int8(ELEMENTS, -1e-3), "scale"),
    payload("scale beyond an encoder's", INT8, int8(ELEMENTS, 2.0**101), "scale"),
    payload("values beyond the sum", INT8, int8(ELEMENTS, 1e9), "more than", "UPDATE_OUT_OF_RANGE"),
    payload("a byte too few", INT8, PLAIN[:-1], "3057 bytes for 3010 elements"),
    payload("a byte too many", INT8, PLAIN + b"\0", "3059 bytes for 3010 elements"),
    payload("a bomb", DEFLATED, segment(BOMB), "do not come to 3058 bytes"),
    payload("a bomb behind a tiny length", DEFLATED,
            segment(raw_deflate(bytes(300_000))) + bytes(400), "no encoder writes that"),
    payload("deflated without an end", DEFLATED,
            segment(raw_deflate(PLAIN, is_final=False)), "do not come to"),
    payload("two streams", DEFLATED, segment(PACKED + PACKED), "do not come to"),
    payload("damaged stream", DEFLATED, segment(flipped(PACKED)), "damaged"),
    payload("segment of 4 GiB", DEFLATED, b"\xff" * 4 + PLAIN, "bytes too early"),
    payload("bytes behind the segment", DEFLATED, segment(PACKED) + b"\0", "after the end"),
]  # fmt: skip
BAD_HEADERS = [
    header("65 sections", empty_sections(62), "65 sections: at most 64", "LIMIT_EXCEEDED"),
    header("1025 metrics", lambda h: h.metrics.update({f"m{i}": 1.0 for i in range(1025)}),
           "metrics: at most 1024", "LIMIT_EXCEEDED"),
    header("name of a metric too long", lambda h: h.metrics.update({"m" * 65: 1.0}),
           "65 characters in a name", "LIMIT_EXCEEDED"),
    header("64 sections", empty_sections(61), "the update's sections are"),
    header("name of two lines", section(name="trainable\nrefused", kind=99), "refused"),
    header("section twice", twice, "two sections have the same name"),
    header("section under two names", another_trainable, "sections are again (trainable)"),
    header("no sections", lambda h: h.ClearField("sections"), "do not add up"),
    header("section missing", lambda h: h.sections.pop(), "sections are statistic"),
    header("sizes do not add up", assign(payload_bytes=10), "do not add up"),
    header("section of a terabyte", section(encoded_bytes=1 << 40), "1099511627776 bytes"),
    header("payload of a terabyte", huge(1 << 40), "payload of 1099511627776 bytes"),
    header("payload of 8 GiB", huge(1 << 33), "8589934592 bytes for 3010 elements"),
    header("payload of 2^64 bytes", huge((1 << 64) - 1), "payload of"),
    header("empty payload", huge(0), "payload of 0 bytes"),
    header("2^40 elements", section(elements=1 << 40), "1099511627776 elements, the model has"),
    header("an element too few", section(elements=ELEMENTS - 1), "the model has 3010"),
    header("unknown kind", section(kind=99), "unknown kind 99"),
    header("kind of another section", section(kind=types_pb.SECTION_KIND_COUNTER), "the model has"),
    header("another chain", codec("int8"), "the recipe asks for the codec topk:0.05|int8"),
    header("another ratio", codec("topk:0.06|int8"), "the recipe asks for the codec"),
    header("another rounding", codec("topk:0.05|int8:nearest"), "the recipe asks for the codec"),
    header("no chain", lambda h: h.sections[0].ClearField("codec"),
           "the recipe asks for the codec"),
    header("identity", codec("identity"), "the recipe asks for the codec int8", uplink=INT8),
    header("deflated or not", codec(DEFLATED), "the recipe asks for the codec int8", uplink=INT8),
    header("another base", assign(base_digest="0" * 64), "the assignment from", "SCHEMA_MISMATCH"),
    header("another schema", assign(schema_digest=Schema(()).digest), "the run's is",
           "SCHEMA_MISMATCH"),
    header("weight 0", assign(weight=0.0), "weight 0.0"),
    header("weight NaN", assign(weight=NAN), "weight nan"),
    header("weight beyond the recipe's", assign(weight=1e12), "rounds.max_weight"),
    header("learning rates infinite", assign(lr_sum=INF), "lr_sum inf"),
    header("another round", assign(round=2), "round 2"),
    header("another level", assign(level="b"), "level 'b'"),
    header("digest is a path", assign(payload_digest="../../etc/passwd"), "digest",
           "INVALID_INPUT"),
]  # fmt: skip
