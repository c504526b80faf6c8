"""What a worker does to an update before it is sent: the recipe's codec chain, error feedback.

What a biased chain leaves out of an update is kept on the device, in the same memory as the
algorithm's and so with the same promise: it advances with the updates that counted (their receipt
came), never with one that was dropped.
"""

from __future__ import annotations

from fedfleet.algorithms.base import Memory
from fedfleet.codecs.chain import Chain
from fedfleet.codecs.config import WireConfig
from fedfleet.codecs.encoded import Encoded
from fedfleet.types import Kind, Update, UpdateSection
from fedfleet.wire.updates import EncodedUpdate, encode_sections

# Keys of a worker's memory that are the codec's; algorithms neither see nor use them.
PREFIX = "codec."
_SEEDS = 1 << 64


def split_memory(memory: Memory) -> tuple[Memory, Memory]:
    """Part a worker's memory into what training keeps and what the codec keeps."""
    codec = {name: array for name, array in memory.items() if name.startswith(PREFIX)}
    return {name: array for name, array in memory.items() if name not in codec}, codec


def encode_uplink(
    update: Update, wire: WireConfig, chain: Chain, codec_memory: Memory, seed: int
) -> tuple[EncodedUpdate, Memory]:
    """Encode an update; only trainable sections lose anything.

    Args:
        chain: the recipe's uplink for this model, from ``spare_small``.
        codec_memory: the codec's part of the memory; empty before the first update. Each level has
            its own part, ``codec.<level>.<section>.<name>``; the others are handed back unchanged.
        seed: of the chain's randomness, in [0, 2^63).

    Returns:
        The encoded update and the codec's memory to keep with it.

    Raises:
        UpdateNotFinite, UpdateOutOfRange: values that the chain cannot hold.
        SchemaMismatch: what was kept is of another model.
    """
    level = f"{PREFIX}{update.header.level}."
    memory = {name: kept for name, kept in codec_memory.items() if not name.startswith(level)}
    encoded: list[Encoded | None] = []
    for number, section in enumerate(update.sections):
        if section.kind is not Kind.TRAINABLE:
            encoded.append(None)
            continue
        prefix = f"{level}{section.name}."
        own = {
            name.removeprefix(prefix): kept
            for name, kept in codec_memory.items()
            if name.startswith(prefix)
        }
        part, kept = _encode(section, wire, chain, own, (seed + number) % _SEEDS)
        encoded.append(part)
        memory |= {prefix + name: array for name, array in kept.items()}
    return encode_sections(update, encoded), memory


def _encode(
    section: UpdateSection, wire: WireConfig, chain: Chain, memory: Memory, seed: int
) -> tuple[Encoded, Memory]:
    if chain.is_unbiased or not wire.error_feedback:
        return chain.encode(section.values, seed), {}
    memory = memory or wire.feedback.start(section.values.size)
    return wire.feedback.encode(chain, section.values, memory, seed)
