"""What leads from one version to another, as bytes.

A delta carries the difference of the trainable parameters through a codec chain; statistics and
counters travel as they are. Applying it is float32 arithmetic in a fixed order, so every device
that holds the first version comes to the same second one, bit for bit.
"""

from __future__ import annotations

import numpy as np
from google.protobuf.message import DecodeError

from fedfleet.codecs import identity
from fedfleet.codecs.chain import Chain
from fedfleet.errors import SchemaMismatch, UpdateInvalid
from fedfleet.types import FloatVector, Kind, ModelState, Section, UpdateSection
from fedfleet.v1 import types_pb2 as pb
from fedfleet.wire.updates import IDENTITY, check_section, open_sections, section_info

_HEAD_BYTES = 4
# Three sections with a chain each; far more than an honest header takes.
MAX_DELTA_HEADER = 1 << 16


def encode_delta(start: ModelState, end: ModelState, chain: Chain, seed: int) -> bytes:
    """Encode what leads from ``start`` to about ``end``; ``apply_delta`` says to what exactly.

    Args:
        seed: of the chain's randomness, in [0, 2^64).

    Raises:
        UpdateNotFinite, UpdateOutOfRange: a difference that the chain cannot hold.
    """
    encoded = chain.encode(end.trainable - start.trainable, seed)
    parts = [encoded.data, identity.encode(end.statistics), identity.encode(end.counters)]
    steps = [encoded.steps, IDENTITY.steps, IDENTITY.steps]
    table = [
        section_info(Section(kind.value, kind, end.vector(kind)), len(part), chain_steps)
        for kind, part, chain_steps in zip(Kind, parts, steps, strict=True)
    ]
    header = pb.DeltaHeader(schema_digest=end.schema.digest, sections=table).SerializeToString()
    return b"".join([len(header).to_bytes(_HEAD_BYTES, "little"), header, *parts])


def apply_delta(start: ModelState, data: bytes, chain: Chain) -> ModelState:
    """Return the version to which a delta leads from ``start``.

    Raises:
        SchemaMismatch: of another model.
        UpdateInvalid, UpdateNotFinite, LimitExceeded: not what ``encode_delta`` writes.
    """
    header, payload = _open(data)
    if header.schema_digest != start.schema.digest:
        raise SchemaMismatch(
            f"the delta is of model schema {header.schema_digest[:12]!r}, the model here has "
            f"{start.schema.digest[:12]}"
        )
    kinds = [check_section(info, start.schema, chain) for info in header.sections]
    if kinds != list(Kind):
        raise UpdateInvalid("a delta has one section of each kind")
    if sum(info.encoded_bytes for info in header.sections) != len(payload):
        raise UpdateInvalid("the sections do not add up to the delta's size")
    difference, statistics, counters = open_sections(header.sections, payload, chain)
    return ModelState(
        start.schema,
        _plus(start.trainable, difference),
        np.array(statistics.values),
        np.array(counters.values),
    )


def _open(data: bytes) -> tuple[pb.DeltaHeader, memoryview]:
    end = _HEAD_BYTES + int.from_bytes(data[:_HEAD_BYTES], "little")
    if not _HEAD_BYTES < end <= min(len(data), MAX_DELTA_HEADER):
        raise UpdateInvalid(f"a delta of {len(data)} bytes whose header would end at byte {end}")
    try:
        header = pb.DeltaHeader.FromString(data[_HEAD_BYTES:end])
    except DecodeError as error:
        raise UpdateInvalid("a delta whose header is damaged", detail=str(error)) from error
    return header, memoryview(data)[end:]


def _plus(trainable_P: FloatVector, difference: UpdateSection) -> FloatVector:
    sum_P: FloatVector = trainable_P.copy()
    sparse = difference.sparse()
    if sparse is not None:
        positions_K, values_K = sparse
        sum_P[positions_K] += values_K
        return sum_P
    for start, block_B in difference.blocks():
        sum_P[start : start + block_B.size] += block_B
    return sum_P
