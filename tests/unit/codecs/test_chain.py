from __future__ import annotations

import numpy as np
import pytest
from codec_vectors import CHAINS
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.codecs.chain import parse_chain
from fedfleet.codecs.encoded import MAX_ELEMENTS, Encoded, Step
from fedfleet.errors import LimitExceeded, UpdateInvalid, UpdateNotFinite

ALLOWED = "allowed: identity, float16, bfloat16, int8, int4, int2, sign, eden, deflate, topk, stc"
VALUES = np.random.default_rng(0).normal(size=1000).astype(np.float32)


@pytest.mark.parametrize("text", CHAINS)
def test_chain_is_written_as_it_was_read(text: str) -> None:
    chain = parse_chain(text)

    assert str(chain) == text
    assert parse_chain(text) == chain
    assert [step.name for step in chain.steps][: text.count("|") + 1] == [
        part.partition(":")[0] for part in text.split("|")
    ]
    for step in chain.steps:
        assert all(type(number) in (int, float) for number in step.parameters.values())


def test_chains_that_decode_differently_have_different_steps() -> None:
    steps = [parse_chain(text).steps for text in CHAINS]

    assert all(steps.count(one) == 1 for one in steps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ALLOWED),
        ("gzip", "no codec 'gzip'; " + ALLOWED),
        ("int8|", "no codec ''"),
        (" int8", "no codec ' int8'"),
        ("int3", "no codec 'int3'"),
        ("int8|int8", "int8 after int8: nothing can follow int8"),
        ("int8|topk:0.1", "topk after int8: a sparsifier comes first"),
        ("topk:0.1|topk:0.1", "topk after topk: a sparsifier comes first, and once"),
        ("topk:0.1|stc:0.1", "stc after topk"),
        ("stc:0.1|int8", "int8 after stc: nothing can follow stc"),
        ("topk:0.1|int8|sign", "sign after int8"),
        ("int8:floor", "no rounding 'floor'; allowed: stochastic, nearest"),
        ("int8:nearest:x", "no rounding 'nearest:x'"),
        ("sign:1", "sign takes no parameter, got '1'"),
        ("identity:", "identity takes no parameter"),
        ("eden", "BITS 1 to 4"),
        ("eden:5", "BITS 1 to 4"),
        ("eden:0", "BITS 1 to 4"),
        ("eden:2:bias", "eden:BITS:biased"),
        *(
            (f"topk:{ratio}", "RATIO above 0 and at most 1")
            for ratio in ("0", "-0.1", "1.1", "nan", "inf", "x", "", "0.1:2", "1_0", "1e999", "0x1")
        ),
        ("topk", "RATIO above 0"),
        ("deflate", "deflate comes last, once, and after a codec"),
        ("deflate|int8", "deflate comes last"),
        ("int8|deflate|deflate", "deflate comes last, once"),
        ("int8|deflate|int4", "int4 after deflate: nothing can follow deflate"),
        ("int8|deflate|topk:0.1", "topk after deflate: a sparsifier comes first"),
        ("int8|deflate:9", "deflate takes no parameter, got '9'"),
        ("topk:0.1|deflate", "leave it out, topk deflates its values"),
        ("topk:0.1|int8|deflate", "deflate after topk: leave it out"),
        ("stc:0.1|deflate", "deflate after stc: leave it out"),
        ("stc:2", "stc:2: must be stc:RATIO"),
    ],
)
def test_parser_names_what_is_wrong_and_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_chain(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (Step("topk", {"ratio": 0.1}),),
        (Step("topk", {"ratio": 0.2}), Step("int8", {"group": 256, "stochastic": 1.0})),
        (Step("topk", {"ratio": 0.1}), Step("int8", {"group": 256, "stochastic": 0.0})),
        (Step("int8", {"group": 256, "stochastic": 1.0}), Step("topk", {"ratio": 0.1})),
    ],
)
def test_chain_refuses_what_another_chain_encoded(steps: tuple[Step, ...]) -> None:
    chain = parse_chain("topk:0.1|int8")
    encoded = chain.encode(VALUES, 0)

    with pytest.raises(UpdateInvalid, match=r"the recipe asks for topk:0\.1\|int8"):
        chain.decode(Encoded(steps, encoded.elements, encoded.data))


@pytest.mark.parametrize("text", CHAINS)
def test_chain_checks_sizes_before_it_allocates(text: str) -> None:
    chain = parse_chain(text)

    for elements, error in ((-1, UpdateInvalid), (MAX_ELEMENTS + 1, LimitExceeded)):
        with pytest.raises(error):
            chain.decode(Encoded(chain.steps, elements, b"0123456789"))
    with pytest.raises(UpdateInvalid):
        chain.decode(Encoded(chain.steps, MAX_ELEMENTS, b"0123456789"))
    with pytest.raises(UpdateInvalid):
        chain.decode(Encoded(chain.steps, 3, bytes(chain.max_bytes(3) + 1)))


@pytest.mark.parametrize("text", [t for t in CHAINS if parse_chain(t).has_exact_size])
def test_dense_chain_takes_one_size_only(text: str) -> None:
    chain = parse_chain(text)
    data = bytes(chain.encode(VALUES, 0).data)

    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(UpdateInvalid, match="expected"):
            chain.decode(Encoded(chain.steps, VALUES.size, wrong))


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0, 3e38])
@pytest.mark.parametrize(
    ("text", "place"),
    [("int8", 4), ("int4", 0), ("int2", 12), ("sign", 0), ("eden:1", 8), ("eden:3:biased", 8)],
)
def test_decoder_refuses_a_scale_that_no_encoder_writes(
    text: str, place: int, scale: float
) -> None:
    chain = parse_chain(text)
    data = bytearray(chain.encode(VALUES, 0).data)
    data[place : place + 4] = np.array([scale], "<f4").tobytes()

    with pytest.raises(UpdateInvalid, match="scale") as caught:
        chain.decode(Encoded(chain.steps, VALUES.size, bytes(data)))
    finite = np.isfinite(scale)
    assert caught.value.code == ("UPDATE_INVALID" if finite else "UPDATE_NOT_FINITE")


@pytest.mark.parametrize(
    ("text", "half"),
    [
        ("float16", b"\x00\x7c"),
        ("float16", b"\x01\xfc"),
        ("bfloat16", b"\x80\x7f"),
        ("bfloat16", b"\xff\xff"),
    ],
)
def test_decoder_refuses_halves_that_are_not_finite(text: str, half: bytes) -> None:
    chain = parse_chain(text)

    with pytest.raises(UpdateNotFinite):
        chain.decode(Encoded(chain.steps, 300, bytes(598) + half))


def settle(text: str, elements: int, data: bytes) -> None:
    """Decode; only our errors may come out, and only whole vectors."""
    chain = parse_chain(text)
    try:
        values = chain.decode(Encoded(chain.steps, elements, data))
    except UpdateInvalid:  # and UpdateNotFinite, which is one
        return
    assert values.shape == (elements,)
    assert (
        text in ("identity", "identity|deflate", "topk:0.01", "topk:1") or np.isfinite(values).all()
    )


@given(st.sampled_from(CHAINS), st.integers(0, 600), st.binary(max_size=600))
@settings(max_examples=600, deadline=1000)
def test_decoder_survives_any_bytes(text: str, elements: int, data: bytes) -> None:
    settle(text, elements, data)


@given(st.sampled_from(CHAINS), st.integers(0, 600), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=1000)
def test_decoder_survives_any_bytes_of_the_right_size(
    text: str, elements: int, random: object
) -> None:
    size = parse_chain(text).max_bytes(elements)
    settle(text, elements, random.randbytes(size))  # type: ignore[attr-defined]


@given(st.data(), st.sampled_from(CHAINS), st.sampled_from([1, 10, 1000]))
@settings(max_examples=800, deadline=1000)
def test_decoder_survives_changed_bytes(data: st.DataObject, text: str, elements: int) -> None:
    good = bytearray(parse_chain(text).encode(VALUES[:elements], 0).data)
    for _ in range(data.draw(st.integers(0, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    start = data.draw(st.integers(0, len(good)))
    change = data.draw(st.sampled_from(["none", "cut", "repeat", "insert"]))
    if change == "cut":
        del good[start:]
    elif change == "repeat":
        good += good[start:]
    elif change == "insert":
        good[start:start] = data.draw(st.binary(max_size=20))

    settle(text, elements, bytes(good))
