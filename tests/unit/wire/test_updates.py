from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from samples import SCHEMA, header, sections, state, update

from fedfleet.errors import FedFleetError
from fedfleet.types import Kind, ParamSpec, Schema, Section, Update
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1 import types_pb2
from fedfleet.wire.updates import (
    KINDS,
    check_header,
    decode_update,
    encode_update,
    header_from_json,
    header_of,
    header_to_json,
)

words = st.text(max_size=20)
metrics = st.dictionaries(st.text(min_size=1, max_size=20), st.floats(allow_nan=False), max_size=5)


@st.composite
def updates(draw: st.DrawFn) -> Update:
    shapes = st.lists(st.integers(0, 3), max_size=2).map(tuple)
    # At least one element, as every model has; some kinds stay empty.
    more = draw(st.lists(st.tuples(shapes, st.sampled_from(list(Kind))), max_size=3))
    params = (ParamSpec(f"p{i}", shape, kind) for i, (shape, kind) in enumerate(more))
    schema = Schema((ParamSpec("w", (2,), Kind.TRAINABLE), *params))
    values = state(schema, seed=draw(st.integers(0, 100)))
    made = sections(schema, {kind: values.vector(kind) for kind in Kind})
    return Update(
        header(
            schema,
            run_id=draw(words),
            assignment_id=draw(words),
            round=draw(st.integers(0, 2**32 - 1)),
            weight=draw(st.floats(1e-9, 1e12)),
            steps=draw(st.integers(0, 2**64 - 1)),
            lr_sum=draw(st.floats(0, 1e6)),
            metrics=draw(metrics),
        ),
        draw(st.permutations(made)),  # type: ignore[arg-type]  # any order is allowed
    )


@given(updates())
def test_update_survives_the_wire(given_update: Update) -> None:
    encoded = encode_update(given_update)
    message = pb.UpdateHeader.FromString(encoded.header.SerializeToString())

    again = decode_update(message, encoded.payload)

    finite = {k: v for k, v in given_update.header.metrics.items() if np.isfinite(v)}
    assert again.header == replace(given_update.header, metrics=finite)
    assert len(again.sections) == len(given_update.sections)
    for found, expected in zip(again.sections, given_update.sections, strict=True):
        assert (found.name, found.kind) == (expected.name, expected.kind)
        assert found.values.dtype == expected.values.dtype
        np.testing.assert_array_equal(found.values, expected.values)


@given(updates())
def test_header_survives_json(given_update: Update) -> None:
    message = encode_update(given_update).header

    assert header_from_json(json.loads(json.dumps(header_to_json(message)))) == message


def test_header_survives_json_with_metrics_that_are_no_numbers() -> None:
    message = encode_update(update(metrics={"loss": np.nan, "norm": np.inf})).header

    again = header_from_json(json.loads(json.dumps(header_to_json(message))))

    assert again.SerializeToString(deterministic=True) == message.SerializeToString(
        deterministic=True
    )
    assert header_of(again).metrics == {}


def test_header_of_an_encoded_update_passes_the_check() -> None:
    given_update = update(trainable=np.arange(9), counters=[3], metrics={"loss": 0.5})
    encoded = encode_update(given_update)

    assert check_header(encoded.header, SCHEMA) == given_update.header
    assert encoded.header.payload_digest == hashlib.sha256(encoded.payload).hexdigest()
    assert encoded.header.payload_bytes == len(encoded.payload) == 9 * 4 + 6 * 4 + 8


def test_decoded_sections_are_views_that_cannot_be_written() -> None:
    encoded = encode_update(update(trainable=np.arange(9)))

    values = decode_update(encoded.header, encoded.payload).section("trainable").values

    assert not values.flags.writeable


def edit(change: Callable[[pb.UpdateHeader], object]) -> pb.UpdateHeader:
    message = encode_update(update(metrics={"loss": 1.0})).header
    change(message)
    return message


def set_(name: str, value: object) -> Callable[[pb.UpdateHeader], object]:
    return lambda message: setattr(message, name, value)


def set_section(name: str, value: object) -> Callable[[pb.UpdateHeader], object]:
    return lambda message: setattr(message.sections[0], name, value)


def with_sections(count: int) -> Callable[[pb.UpdateHeader], object]:
    extra = [types_pb2.SectionInfo(name=f"s{i}") for i in range(count - 3)]
    return lambda message: message.sections.extend(extra)


def with_metrics(names: list[str]) -> Callable[[pb.UpdateHeader], object]:
    return lambda message: message.metrics.update(dict.fromkeys(names, 1.0))


def with_codec(*kinds: int) -> Callable[[pb.UpdateHeader], object]:
    def change(message: pb.UpdateHeader) -> None:
        del message.sections[0].codec[:]
        message.sections[0].codec.extend(
            types_pb2.CodecStep(kind=kind)  # type: ignore[arg-type]  # also what does not exist
            for kind in kinds
        )

    return change


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (set_("worker_id", ""), "INVALID_INPUT", "worker id ''"),
        (set_("worker_id", "a/b"), "INVALID_INPUT", "worker id 'a/b'"),
        (set_("base_digest", "ab"), "INVALID_INPUT", "digest 'ab': must be 64"),
        (set_("payload_digest", "AB" * 32), "INVALID_INPUT", "digest 'ABAB"),
        (set_("schema_digest", "cd" * 32), "SCHEMA_MISMATCH", "is of model schema 'cdcdcdcdcdcd'"),
        (
            set_("schema_digest", "x" * 10**6),
            "SCHEMA_MISMATCH",
            "is of model schema 'xxxxxxxxxxxx'",
        ),
        (set_("level", "b" * 65), "LIMIT_EXCEEDED", "65 characters in a name: at most 64"),
        (set_("weight", 0.0), "UPDATE_INVALID", "weight 0.0: must be a finite number above 0"),
        (set_("weight", -1.0), "UPDATE_INVALID", "weight -1.0"),
        (set_("weight", float("nan")), "UPDATE_INVALID", "weight nan"),
        (set_("weight", float("inf")), "UPDATE_INVALID", "weight inf"),
        (set_("lr_sum", -0.5), "UPDATE_INVALID", "lr_sum -0.5"),
        (set_("lr_sum", float("nan")), "UPDATE_INVALID", "lr_sum nan"),
        (set_("payload_bytes", 0), "UPDATE_INVALID", "a payload of 0 bytes"),
        (set_("payload_bytes", 2**40), "UPDATE_INVALID", "a payload of 1099511627776 bytes"),
        (set_("payload_bytes", 67), "UPDATE_INVALID", "do not add up to the payload's size"),
        (with_sections(65), "LIMIT_EXCEEDED", "65 sections: at most 64"),
        (with_metrics([f"m{i}" for i in range(1024)]), "LIMIT_EXCEEDED", "metrics: at most 1024"),
        (with_metrics(["m" * 65]), "LIMIT_EXCEEDED", "65 characters in a name: at most 64"),
        (set_section("name", "s" * 65), "LIMIT_EXCEEDED", "65 characters in a name: at most 64"),
        (set_section("name", "counter"), "UPDATE_INVALID", "two sections have the same name"),
        (set_section("kind", 0), "UPDATE_INVALID", "section trainable: unknown kind 0"),
        (set_section("kind", 77), "UPDATE_INVALID", "section trainable: unknown kind 77"),
        (set_section("kind", 2), "UPDATE_INVALID", "9 elements, the model has 6 of kind statistic"),
        (set_section("elements", 2**31), "UPDATE_INVALID", "2147483648 elements, the model has 9"),
        (set_section("encoded_bytes", 40), "UPDATE_INVALID", "trainable: 40 bytes for 9 elements"),
        (with_codec(), "UPDATE_INVALID", "trainable: the recipe asks for the codec identity"),
        (with_codec(0), "UPDATE_INVALID", "trainable: the recipe asks for the codec identity"),
        (with_codec(1, 1), "UPDATE_INVALID", "trainable: the recipe asks for the codec identity"),
        (with_codec(99), "UPDATE_INVALID", "trainable: the recipe asks for the codec identity"),
    ],
)
def test_header_is_refused(
    change: Callable[[pb.UpdateHeader], object], code: str, text: str
) -> None:
    with pytest.raises(FedFleetError) as caught:
        check_header(edit(change), SCHEMA)
    assert caught.value.code == code
    assert text in caught.value.message
    assert len(caught.value.message) < 500


@given(st.binary(max_size=200))
def test_header_of_any_bytes_is_refused_with_our_error(data: bytes) -> None:
    message = pb.UpdateHeader()
    try:
        message.ParseFromString(data)
    except DecodeError:  # grpc answers these itself
        return
    with pytest.raises(FedFleetError):
        check_header(message, SCHEMA)


@pytest.mark.parametrize("size", [0, 67, 69])
def test_payload_of_another_size_is_refused(size: int) -> None:
    encoded = encode_update(update())

    with pytest.raises(FedFleetError, match=f"{size} bytes, announced were 68") as caught:
        decode_update(encoded.header, bytes(size))
    assert caught.value.code == "UPDATE_INVALID"


def test_kinds_of_the_wire_are_those_of_the_types() -> None:
    assert list(KINDS) == list(Kind)
    assert sorted(KINDS.values()) == sorted(set(types_pb2.SectionKind.values()) - {0})


def test_section_that_an_algorithm_adds_travels_too() -> None:
    control = Section("control", Kind.TRAINABLE, np.arange(9, dtype=np.float32))
    encoded = encode_update(replace(update(), sections=(*sections(), control)))

    check_header(encoded.header, SCHEMA)
    again = decode_update(encoded.header, encoded.payload)
    np.testing.assert_array_equal(again.section("control").values, control.values)
