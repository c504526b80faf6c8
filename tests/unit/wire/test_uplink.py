"""An update through a codec chain: what is lost is kept, and only trainable sections lose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.codecs.chain import parse_chain
from fedfleet.errors import FedFleetError, UpdateInvalid
from fedfleet.types import Kind, ParamSpec, Schema, Section, Update, UpdateHeader
from fedfleet.wire.updates import IDENTITY, check_header, decode_update
from fedfleet.wire.uplink import encode_uplink, split_memory

P = 5000
SCHEMA = Schema(
    (
        ParamSpec("w", (P,), Kind.TRAINABLE),
        ParamSpec("m", (7,), Kind.STATISTIC),
        ParamSpec("n", (), Kind.COUNTER),
    )
)
CHAINS = [
    "identity",
    "float16",
    "int8",
    "int4:nearest",
    "topk:0.01|int8",
    "stc:0.02",
    "sign",
    "eden:2",
]


def an_update(seed: int) -> Update:
    random = np.random.default_rng(seed)
    header = UpdateHeader(
        run_id="r-1",
        round=1,
        assignment_id="r-1/1/1/train/w",
        worker_id="w",
        base_digest="0" * 64,
        schema_digest=SCHEMA.digest,
        weight=3.0,
        steps=1,
        lr_sum=0.1,
    )
    return Update(
        header,
        (
            Section("trainable", Kind.TRAINABLE, random.standard_normal(P).astype(np.float32)),
            Section("statistic", Kind.STATISTIC, random.standard_normal(7).astype(np.float32)),
            Section("counter", Kind.COUNTER, np.array([5], np.int64)),
        ),
    )


@pytest.mark.parametrize("text", CHAINS)
def test_uplink_survives_the_wire_and_leaves_statistics_and_counters_exact(text: str) -> None:
    chain = parse_chain(text)
    update = an_update(1)

    encoded, _ = encode_uplink(update, chain, {}, seed=9)
    check_header(encoded.header, SCHEMA, chain)
    decoded = decode_update(encoded.header, encoded.payload, chain)

    for name in ("statistic", "counter"):
        assert decoded.section(name).values.tobytes() == update.section(name).values.tobytes()
    lost = decoded.section("trainable").values - update.section("trainable").values
    bound = chain.error_bound(update.section("trainable").values)
    assert float(np.square(lost, dtype=np.float64).sum()) <= bound.worst * (1 + 1e-6)


@given(st.sampled_from(["topk:0.02|int8", "stc:0.05", "sign", "int4:nearest"]), st.integers(0, 99))
def test_uplink_sends_later_what_it_left_out(text: str, seed: int) -> None:
    chain = parse_chain(text)
    memory = {}
    sent = np.zeros(P)
    wanted = np.zeros(P)
    for round in range(4):
        update = an_update(seed + round)
        encoded, memory = encode_uplink(update, chain, memory, seed=seed + round)
        decoded = decode_update(encoded.header, encoded.payload, chain)
        sent += decoded.section("trainable").values
        wanted += update.section("trainable").values

    [residual] = memory.values()
    np.testing.assert_allclose(sent + residual, wanted, atol=2e-5)


def test_unbiased_chain_keeps_nothing_on_the_device() -> None:
    _, memory = encode_uplink(an_update(1), parse_chain("int8"), {}, seed=1)

    assert memory == {}


def test_memory_is_parted_and_put_together_again() -> None:
    _, codec = encode_uplink(an_update(1), parse_chain("topk:0.01"), {}, seed=1)
    other = {"training.plateau": np.ones(2), "c": np.zeros(3)}

    training, again = split_memory({**other, **codec})

    assert training.keys() == other.keys()
    assert again.keys() == codec.keys() == {"codec.trainable.residual"}


def test_residual_of_another_model_is_refused() -> None:
    memory = {"codec.trainable.residual": np.zeros(P + 1, np.float32)}

    with pytest.raises(FedFleetError) as caught:
        encode_uplink(an_update(1), parse_chain("topk:0.01"), memory, seed=1)

    assert caught.value.code == "SCHEMA_MISMATCH"


@pytest.mark.parametrize(
    ("sent", "asked"),
    [("int8", "identity"), ("identity", "int8"), ("topk:0.1|int8", "topk:0.01|int8")],
)
def test_chain_that_the_recipe_did_not_ask_for_is_refused(sent: str, asked: str) -> None:
    encoded, _ = encode_uplink(an_update(1), parse_chain(sent), {}, seed=1)

    with pytest.raises(UpdateInvalid, match=f"asks for the codec {asked.split(':')[0]}"):
        check_header(encoded.header, SCHEMA, parse_chain(asked))


def test_more_bytes_than_the_chain_can_take_are_refused_before_they_come() -> None:
    chain = parse_chain("topk:0.01|int8")
    encoded, _ = encode_uplink(an_update(1), chain, {}, seed=1)
    more = chain.max_bytes(P) + 1 - encoded.header.sections[0].encoded_bytes
    encoded.header.sections[0].encoded_bytes += more
    encoded.header.payload_bytes += more

    with pytest.raises(UpdateInvalid, match="bytes for"):
        check_header(encoded.header, SCHEMA, chain)


@given(st.binary(max_size=300), st.integers(0, 200))
def test_damaged_payload_is_refused_with_a_stable_code(junk: bytes, at: int) -> None:
    chain = parse_chain("topk:0.01|int8")
    encoded, _ = encode_uplink(an_update(1), chain, {}, seed=1)
    payload = bytearray(encoded.payload)
    payload[at : at + len(junk)] = junk[: max(0, len(payload) - at)]

    try:
        decoded = decode_update(encoded.header, bytes(payload), chain)
    except FedFleetError as error:
        assert error.code.startswith("UPDATE_")  # noqa: PT017 - either outcome is right
    else:
        assert decoded.section("trainable").values.shape == (P,)


def test_identity_costs_what_the_arrays_do() -> None:
    encoded, memory = encode_uplink(an_update(1), IDENTITY, {}, seed=1)

    assert (encoded.header.payload_bytes, memory) == (4 * P + 4 * 7 + 8, {})
