"""An update as a header message and a payload, and back, with every limit checked.

The payload is the sections' encoded bytes one after the other; the header's table says where each
begins, so a receiver knows every size before it allocates.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from fedfleet.codecs import identity
from fedfleet.codecs.chain import Chain, parse_chain
from fedfleet.codecs.encoded import Encoded, Step
from fedfleet.errors import SchemaMismatch, UpdateInvalid
from fedfleet.types import Array, Kind, Schema, Section, Update, UpdateHeader, UpdateSection
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1 import types_pb2 as types_pb
from fedfleet.wire import limits
from fedfleet.wire.codec_steps import steps_to_messages

KINDS: Mapping[Kind, types_pb.SectionKind.ValueType] = {
    Kind.TRAINABLE: types_pb.SECTION_KIND_TRAINABLE,
    Kind.STATISTIC: types_pb.SECTION_KIND_STATISTIC,
    Kind.COUNTER: types_pb.SECTION_KIND_COUNTER,
}
_KIND_OF = {number: kind for kind, number in KINDS.items()}
IDENTITY = parse_chain("identity")


@dataclass(frozen=True, eq=False)
class EncodedUpdate:
    """An update ready to be sent or journalled."""

    header: pb.UpdateHeader
    payload: bytes


@dataclass(frozen=True, eq=False)
class EncodedSection:
    """An ``UpdateSection`` that is decoded as it is read.

    Every reading raises UpdateInvalid or UpdateNotFinite where the bytes are not the chain's.
    """

    name: str
    kind: Kind
    encoded: Encoded
    chain: Chain

    @property
    def elements(self) -> int:
        return self.encoded.elements

    @property
    def values(self) -> Array:
        return self.chain.decode(self.encoded)

    def blocks(self) -> Iterator[tuple[int, Array]]:
        if self.chain.is_sparse:
            return iter([(0, self.values)])
        return self.chain.decode_blocks(self.encoded)

    def sparse(self) -> tuple[Array, Array] | None:
        return self.chain.decode_sparse(self.encoded) if self.chain.is_sparse else None


def encode_update(update: Update) -> EncodedUpdate:
    """Encode header and sections, each as it is."""
    return encode_sections(update, [None] * len(update.sections))


def encode_sections(update: Update, encoded: Sequence[Encoded | None]) -> EncodedUpdate:
    """Put an update together.

    Args:
        encoded: for each section what a chain made of it, or None to send it as it is.
    """
    steps = [part.steps if part else IDENTITY.steps for part in encoded]
    parts = [
        part.data if part else identity.encode(section.values)
        for section, part in zip(update.sections, encoded, strict=True)
    ]
    header = update.header
    payload = b"".join(parts)
    message = pb.UpdateHeader(
        run_id=header.run_id,
        round=header.round,
        assignment_id=header.assignment_id,
        worker_id=header.worker_id,
        base_digest=header.base_digest,
        schema_digest=header.schema_digest,
        level=header.level,
        weight=header.weight,
        steps=header.steps,
        lr_sum=header.lr_sum,
        metrics=header.metrics,
        payload_digest=hashlib.sha256(payload).hexdigest(),
        payload_bytes=len(payload),
        sections=[
            section_info(section, len(part), chain_steps)
            for section, part, chain_steps in zip(update.sections, parts, steps, strict=True)
        ],
    )
    return EncodedUpdate(message, payload)


def section_info(
    section: UpdateSection, encoded_bytes: int, steps: Iterable[Step]
) -> types_pb.SectionInfo:
    """A section's line in a section table."""
    return types_pb.SectionInfo(
        name=section.name,
        kind=KINDS[section.kind],
        elements=section.elements,
        encoded_bytes=encoded_bytes,
        codec=steps_to_messages(steps),
    )


def check_header(message: pb.UpdateHeader, schema: Schema, chain: Chain = IDENTITY) -> UpdateHeader:
    """Check a header that may come from anybody, before its payload is received.

    Args:
        chain: what the recipe asks for trainable sections; the others are sent as they are.

    Raises:
        LimitExceeded: too many sections or metrics, or names too long.
        SchemaMismatch: of another model.
        UpdateInvalid: numbers that cannot be, or sections that do not add up to the payload.
    """
    _check_shape(message)
    if message.schema_digest != schema.digest:
        raise SchemaMismatch(
            f"the update is of model schema {message.schema_digest[:12]!r}, the run's is "
            f"{schema.digest[:12]!r}; worker and coordinator must run the same release"
        )
    for info in message.sections:
        check_section(info, schema, chain)
    if sum(info.encoded_bytes for info in message.sections) != message.payload_bytes:
        raise UpdateInvalid("the sections do not add up to the payload's size")
    return header_of(message)


def check_section(info: types_pb.SectionInfo, schema: Schema, chain: Chain) -> Kind:
    """Check one line of a section table; trainable sections went through the chain.

    Raises:
        UpdateInvalid: another kind, length, codec, or a size that cannot be.
    """
    kind = _KIND_OF.get(info.kind)
    if kind is None:
        raise UpdateInvalid(f"section {info.name}: unknown kind {info.kind}")
    if info.elements != schema.elements(kind):
        raise UpdateInvalid(
            f"section {info.name}: {info.elements} elements, the model has "
            f"{schema.elements(kind)} of kind {kind.value}"
        )
    _check_codec(info, kind, chain if kind is Kind.TRAINABLE else IDENTITY)
    return kind


def _check_codec(info: types_pb.SectionInfo, kind: Kind, chain: Chain) -> None:
    # Compared as messages: what the recipe does not ask for need not be understood.
    if list(info.codec) != steps_to_messages(chain.steps):
        raise UpdateInvalid(f"section {info.name}: the recipe asks for the codec {chain}")
    most = chain.max_bytes(info.elements)
    if chain.text == IDENTITY.text:  # the only chain that carries counters
        most = info.elements * kind.dtype.itemsize
    if info.encoded_bytes > most or (chain.has_exact_size and info.encoded_bytes != most):
        raise UpdateInvalid(
            f"section {info.name}: {info.encoded_bytes} bytes for {info.elements} elements"
        )


def _check_shape(message: pb.UpdateHeader) -> None:
    limits.check_worker_id(message.worker_id)
    limits.check_digest(message.base_digest)
    limits.check_digest(message.payload_digest)
    limits.check_count("sections", len(message.sections), limits.MAX_SECTIONS)
    limits.check_count("metrics", len(message.metrics), limits.MAX_METRICS)
    names = [info.name for info in message.sections]
    for name in (*names, *message.metrics, message.level):
        limits.check_count("characters in a name", len(name), limits.MAX_NAME)
        if not name.isprintable():
            raise UpdateInvalid(f"the name {name!r}: must be of printable characters")
    if len(set(names)) != len(names):
        raise UpdateInvalid("two sections have the same name")
    if not 0 < message.payload_bytes <= limits.MAX_PAYLOAD_BYTES:
        raise UpdateInvalid(f"a payload of {message.payload_bytes} bytes")
    for name, value in (("weight", message.weight), ("lr_sum", message.lr_sum)):
        if not math.isfinite(value) or value < 0 or (name == "weight" and value == 0):
            raise UpdateInvalid(f"{name} {value}: must be a finite number above 0")


def header_of(message: pb.UpdateHeader) -> UpdateHeader:
    """The header as our value, unchecked."""
    return UpdateHeader(
        run_id=message.run_id,
        round=message.round,
        assignment_id=message.assignment_id,
        worker_id=message.worker_id,
        base_digest=message.base_digest,
        schema_digest=message.schema_digest,
        level=message.level,
        weight=message.weight,
        steps=message.steps,
        lr_sum=message.lr_sum,
        metrics={name: v for name, v in message.metrics.items() if math.isfinite(v)},
    )


def decode_update(
    message: pb.UpdateHeader, payload: bytes | memoryview, chain: Chain = IDENTITY
) -> Update:
    """Open a payload whose header passed ``check_header`` with the same chain.

    Sections that were sent as they are become read-only views of the payload; the others are
    decoded each time they are read, so that an update never needs memory of the model's size.

    The payload's digest is not computed again: blobs are checked when they are committed.

    Raises:
        UpdateInvalid, UpdateNotFinite: not what the header says, or (once a section is read) not
            what the chain writes.
    """
    if len(payload) != message.payload_bytes:
        raise UpdateInvalid(f"{len(payload)} bytes, announced were {message.payload_bytes}")
    sections = open_sections(message.sections, memoryview(payload), chain)
    return Update(header_of(message), sections)


def open_sections(
    table: Iterable[types_pb.SectionInfo], payload: memoryview, chain: Chain
) -> tuple[UpdateSection, ...]:
    """The sections of a payload whose table was checked with ``check_section``."""
    sections: list[UpdateSection] = []
    start = 0
    for info in table:
        kind = _KIND_OF[info.kind]
        data = payload[start : start + info.encoded_bytes]
        if kind is Kind.TRAINABLE and chain.text != IDENTITY.text:
            encoded = Encoded(chain.steps, info.elements, data)
            sections.append(EncodedSection(info.name, kind, encoded, chain))
        else:
            sections.append(Section(info.name, kind, identity.decode(data, kind, info.elements)))
        start += info.encoded_bytes
    return tuple(sections)


def header_to_json(message: pb.UpdateHeader) -> dict[str, Any]:
    """The header as a JSON object, for the journal and a worker's disk."""
    return MessageToDict(message, preserving_proto_field_name=True)


def header_from_json(value: Mapping[str, Any]) -> pb.UpdateHeader:
    """Read what ``header_to_json`` wrote.

    Raises:
        UpdateInvalid: somebody else wrote it, or it is damaged.
    """
    try:
        return ParseDict(dict(value), pb.UpdateHeader())
    except (ParseError, TypeError, ValueError) as error:
        raise UpdateInvalid("a stored update's header is damaged", detail=str(error)) from error
