"""What a worker does to an update before it is sent: the recipe's codec chain, error feedback.

What a biased chain leaves out of an update is kept on the device, in the same memory as the
algorithm's and so with the same promise: it advances with the updates that counted (their receipt
came), never with one that was dropped.
"""

from __future__ import annotations

from fedfleet.algorithms.base import Memory
from fedfleet.codecs.chain import Chain
from fedfleet.codecs.encoded import Encoded
from fedfleet.codecs.feedback import ErrorFeedback
from fedfleet.types import Kind, Section, Update
from fedfleet.wire.updates import EncodedUpdate, encode_sections

# Keys of a worker's memory that are the codec's; algorithms neither see nor use them.
PREFIX = "codec."
_SEEDS = 1 << 64
_feedback = ErrorFeedback()


def split_memory(memory: Memory) -> tuple[Memory, Memory]:
    """Part a worker's memory into what training keeps and what the codec keeps."""
    codec = {name: array for name, array in memory.items() if name.startswith(PREFIX)}
    return {name: array for name, array in memory.items() if name not in codec}, codec


def encode_uplink(
    update: Update, chain: Chain, codec_memory: Memory, seed: int
) -> tuple[EncodedUpdate, Memory]:
    """Encode an update; only trainable sections lose anything.

    Args:
        codec_memory: the codec's part of the memory; empty before the first update.
        seed: of the chain's randomness, in [0, 2^63).

    Returns:
        The encoded update and the codec's memory to keep with it.

    Raises:
        UpdateNotFinite, UpdateOutOfRange: values that the chain cannot hold.
        SchemaMismatch: what was kept is of another model.
    """
    encoded: list[Encoded | None] = []
    kept: dict[str, Memory] = {}
    for number, section in enumerate(update.sections):
        if section.kind is not Kind.TRAINABLE:
            encoded.append(None)
            continue
        part, kept[section.name] = _encode(section, chain, codec_memory, (seed + number) % _SEEDS)
        encoded.append(part)
    memory = {
        f"{PREFIX}{section}.{name}": array
        for section, arrays in kept.items()
        for name, array in arrays.items()
    }
    return encode_sections(update, encoded), memory


def _encode(
    section: Section, chain: Chain, codec_memory: Memory, seed: int
) -> tuple[Encoded, Memory]:
    if chain.is_unbiased:
        return chain.encode(section.values, seed), {}
    prefix = f"{PREFIX}{section.name}."
    memory = {
        name.removeprefix(prefix): array
        for name, array in codec_memory.items()
        if name.startswith(prefix)
    }
    memory = memory or _feedback.start(section.values.size)
    return _feedback.encode(chain, section.values, memory, seed)
