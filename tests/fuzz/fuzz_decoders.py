"""Coverage-guided fuzzing of everything that decodes bytes of an update.

``python tests/fuzz/fuzz_decoders.py -runs=100000`` (any option of libFuzzer; a folder keeps the
corpus). Only our errors may come out, and no more memory may be taken than what was announced asks
for. The corpus begins with real encodings; a failing input is written into its folder and can be
given as an argument to be run again.
"""

from __future__ import annotations

import sys
import tempfile
import tracemalloc
import zlib
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent))

with atheris.instrument_imports(include=["fedfleet.codecs", "fedfleet.wire"]):
    import numpy as np
    from codec_vectors import CHAINS
    from google.protobuf.message import DecodeError

    from fedfleet.codecs.chain import Chain, parse_chain
    from fedfleet.codecs.encoded import Encoded
    from fedfleet.errors import FedFleetError
    from fedfleet.types import Kind, ParamSpec, Schema, Section, Update, UpdateHeader
    from fedfleet.v1 import federation_service_pb2 as pb
    from fedfleet.wire.spare import spare_small
    from fedfleet.wire.updates import check_header, decode_update, encode_sections

# The tensors' sizes: none, one, a group and a bit, some small ones, and more than a block.
SCHEMAS = tuple(
    Schema(
        (
            *(ParamSpec(f"p{i}", (n,), Kind.TRAINABLE) for i, n in enumerate(sizes)),
            ParamSpec("mean", (3,), Kind.STATISTIC),
            ParamSpec("count", (), Kind.COUNTER),
        )
    )
    for sizes in ((), (1,), (257,), (9, 1200, 20, 30, 1500, 7), (1100, 3, 33_000))
)
PARSED = tuple(parse_chain(text) for text in CHAINS)
# Bits of the second byte: which schema, whether small tensors are spared, and the form of the rest.
SPARED, FITTED, WHOLE_UPDATE = 8, 16, 32
HEADER_BYTES = 2
# Beside the announced: a block and its scratch, zlib's window, messages.
FREE_BYTES = 2 << 20


def chain_of(first: int, second: int) -> tuple[Chain, Schema]:
    chain, schema = PARSED[first % len(PARSED)], SCHEMAS[(second & 7) % len(SCHEMAS)]
    return (spare_small(chain, schema) if second & SPARED else chain), schema


def decode_vector(chain: Chain, elements: int, data: bytes) -> None:
    encoded = Encoded(chain.steps, elements, data)
    values = chain.decode(encoded)
    assert values.shape == (elements,)
    assert values.dtype == np.float32
    if chain.is_sparse:
        positions, kept = chain.decode_sparse(encoded)
        assert positions.shape == kept.shape
        assert (np.diff(positions) > 0).all()
        assert not positions.size or 0 <= positions[0] <= positions[-1] < elements
        assert values[positions].tobytes() == kept.tobytes()
    else:
        at = 0
        for start, block in chain.decode_blocks(encoded):
            assert start == at
            assert values[start : start + block.size].tobytes() == block.tobytes()
            at += block.size
        assert at == elements


def decode_whole(chain: Chain, schema: Schema, data: bytes) -> None:
    size = int.from_bytes(data[:HEADER_BYTES], "little")
    message, payload = pb.UpdateHeader(), data[HEADER_BYTES + size :]
    try:
        message.ParseFromString(data[HEADER_BYTES : HEADER_BYTES + size])
    except DecodeError:  # grpc answers these itself
        return
    message.schema_digest = schema.digest
    message.payload_bytes = len(payload)
    check_header(message, schema, chain)
    for section in decode_update(message, payload, chain).sections:
        assert section.values.shape == (schema.elements(section.kind),)
        assert section.values.dtype == section.kind.dtype


def run_one(data: bytes) -> None:
    if len(data) < 2:
        return
    chain, schema = chain_of(data[0], data[1])
    elements = schema.elements(Kind.TRAINABLE)
    rest = data[2:]
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        if data[1] & WHOLE_UPDATE:
            decode_whole(chain, schema, rest)
        elif data[1] & FITTED:
            size = chain.max_bytes(elements)
            decode_vector(chain, elements, rest[:size].ljust(size, b"\0"))
        else:
            decode_vector(chain, elements, rest)
    except FedFleetError as error:
        answer = f"{error.code} {error.message}"
        if len(answer) > 1000:
            raise AssertionError(answer) from error
    peak = tracemalloc.get_traced_memory()[1] - before
    most = FREE_BYTES + 8 * len(data) + 64 * elements
    assert peak <= most, f"{peak} bytes for {len(data)} bytes of {elements} elements by {chain}"


def update_of(chain: Chain, schema: Schema) -> bytes:
    values = values_of(schema)
    header = UpdateHeader(
        run_id="r",
        round=1,
        assignment_id="r/1/1/train/w",
        worker_id="w",
        base_digest="0" * 64,
        schema_digest=schema.digest,
        weight=1.0,
        steps=1,
        lr_sum=0.1,
        metrics={"loss": 0.5},
    )
    sections = (
        Section("trainable", Kind.TRAINABLE, values),
        Section("statistic", Kind.STATISTIC, np.ones(3, np.float32)),
        Section("counter", Kind.COUNTER, np.ones(1, np.int64)),
    )
    encoded = encode_sections(Update(header, sections), [chain.encode(values, 1), None, None])
    message = encoded.header.SerializeToString()
    return len(message).to_bytes(HEADER_BYTES, "little") + message + encoded.payload


def values_of(schema: Schema) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.standard_t(3, schema.elements(Kind.TRAINABLE)).astype(np.float32)


def bomb() -> bytes:
    """A deflated segment with its length, which would become a thousand times as long."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(20 << 20)) + packer.flush()
    return len(packed).to_bytes(4, "little") + packed


def write_seeds(folder: Path) -> None:
    """Real encodings: every chain, spared or not, as a vector and within an update; and a bomb."""
    deflating, longest = CHAINS.index("int8|deflate"), len(SCHEMAS) - 1
    (folder / "bomb").write_bytes(bytes([deflating, longest]) + bomb())
    for first in range(len(PARSED)):
        for second in range(len(SCHEMAS)):
            for spared in (0, SPARED):
                chain, schema = chain_of(first, second | spared)
                vector = bytes(chain.encode(values_of(schema), 1).data)
                name = f"{first}-{second}-{spared}"
                (folder / f"vector-{name}").write_bytes(bytes([first, second | spared]) + vector)
                flags = bytes([first, second | spared | WHOLE_UPDATE])
                (folder / f"update-{name}").write_bytes(flags + update_of(chain, schema))


def main() -> None:
    options = sys.argv[1:]
    if all(option.startswith("-") for option in options):
        folder = Path(tempfile.mkdtemp(prefix="fuzz-decoders-"))
        write_seeds(folder)
        options += [str(folder), f"-artifact_prefix={folder}/"]
    tracemalloc.start()
    atheris.Setup([sys.argv[0], *options], run_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
