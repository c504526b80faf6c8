"""Statistics of narrower levels in a version's file, as written and as anybody may write them."""

from __future__ import annotations

import base64
import json
import re
import runpy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save
from safetensors.torch import load as load_in_torch
from samples import SCHEMA, state

from fedfleet.errors import InvalidInput, SchemaMismatch
from fedfleet.types import FloatVector, Kind, ParamSpec, Schema
from fedfleet.wire.level_statistics import KEY, read_level_statistics, room_for_levels
from fedfleet.wire.limits import MAX_LEVEL_STATISTICS
from fedfleet.wire.offers import check_size, check_weights
from fedfleet.wire.weights import decode_state, encode_state

PAGE = (Path(__file__).parents[3] / "docs" / "registry.md").read_text()
NARROW = "bcdefghijklmnop"
VECTORS = arrays(
    np.float32,
    st.integers(0, 6),
    elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
)
LEVELS = st.dictionaries(st.sampled_from(NARROW), VECTORS)


@given(LEVELS)
def test_levels_come_back_bit_for_bit(levels: dict[str, FloatVector]) -> None:
    data = encode_state(state(seed=5), levels)

    found = read_level_statistics(data)

    assert {level: one.tobytes() for level, one in found.items()} == {
        level: one.tobytes() for level, one in levels.items()
    }
    assert all(one.dtype == np.float32 for one in found.values())


@given(LEVELS, st.randoms())
def test_bytes_are_a_function_of_state_and_levels(
    levels: dict[str, FloatVector], random: object
) -> None:
    shuffled = list(levels.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    data = encode_state(state(seed=5), levels)

    assert data == encode_state(state(seed=5), dict(shuffled))
    assert (data == encode_state(state(seed=5))) == (not levels)


@given(LEVELS)
def test_whoever_loads_tensors_finds_the_same_ones(levels: dict[str, FloatVector]) -> None:
    given_state = state(seed=5)
    data = encode_state(given_state, levels)

    plain, tensors = load_in_torch(encode_state(given_state)), load_in_torch(data)
    again = decode_state(SCHEMA, data)

    assert tensors.keys() == plain.keys()
    assert all(torch.equal(tensors[name], plain[name]) for name in plain)
    for kind in Kind:
        assert again.vector(kind).tobytes() == given_state.vector(kind).tobytes()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=15), st.integers(0, 20))
def test_every_file_with_levels_has_a_size_that_is_taken(sizes: list[int], more: int) -> None:
    whole = max(sizes) + more
    schema = Schema((ParamSpec("running_mean", (whole,), Kind.STATISTIC),))
    levels = {
        level: np.full(size, -1.1, np.float32) for level, size in zip(NARROW, sizes, strict=False)
    }
    data = encode_state(state(schema), levels)

    check_size(schema, len(data))
    check_weights(schema, data)
    assert len(data) - len(encode_state(state(schema))) <= room_for_levels(schema)


def test_room_is_bounded_and_only_where_there_are_statistics() -> None:
    plain = Schema((ParamSpec("weight", (1 << 20,), Kind.TRAINABLE),))
    large = Schema((ParamSpec("running_mean", (1 << 30,), Kind.STATISTIC),))

    assert room_for_levels(plain) == 0
    assert 6 * MAX_LEVEL_STATISTICS <= room_for_levels(large) < 2 << 20


def test_most_statistics_that_a_run_measures_can_be_written_and_read() -> None:
    half = MAX_LEVEL_STATISTICS // 2
    schema = Schema((ParamSpec("running_mean", (half,), Kind.STATISTIC),))
    vector = np.full(half, 1.1, np.float32)

    data = encode_state(state(schema), {"b": vector, "c": vector})
    check_size(schema, len(data))
    check_weights(schema, data)
    more = encode_state(state(schema), {"b": vector, "c": vector, "d": vector[:1]})

    assert [*read_level_statistics(data)] == ["b", "c"]
    refused(more, "at most")


def file_of(metadata: Mapping[str, str] | None) -> bytes:
    return save(state(seed=5).tensors(), metadata and dict(metadata))


def of_text(text: str) -> bytes:
    return file_of({KEY: text})


def b64(*values: float) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def refused(data: bytes, why: str | None = None) -> None:
    with pytest.raises(SchemaMismatch, match=why) as caught:
        read_level_statistics(data)
    assert caught.value.code == "SCHEMA_MISMATCH"
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '"b"',
        "{",
        "[" * 100_000,
        '{"b":' * 50 + "1" + "}" * 50,
        '{"b": NaN}',
        '{"b": 1e999}',
        '{"b": "\\ud800"}',
        '{"b": null}',
        '{"b": [1.0]}',
        '{"b": {}}',
        json.dumps({"a": b64(1)}),
        json.dumps({"q": b64(1)}),
        json.dumps({"": b64(1)}),
        json.dumps({"bc": b64(1)}),
        json.dumps({"B": b64(1)}),
        json.dumps({"b": "!" + b64(1)}),
        json.dumps({"b": b64(1)[:-1]}),
        json.dumps({"b": b64(1) + "\n"}),
        json.dumps({"b": base64.b64encode(b"abc").decode()}),
        json.dumps({"b": "\N{LATIN SMALL LETTER E WITH ACUTE}" * 4}),
        json.dumps({"b": b64(1, float("nan"))}),
        json.dumps({"b": b64(float("-inf"))}),
        json.dumps({"b": "A" * 8 * MAX_LEVEL_STATISTICS}),
        json.dumps(dict.fromkeys(NARROW, "AAAA" * (MAX_LEVEL_STATISTICS // 12))),
    ],
)
def test_what_is_no_statistics_is_refused(text: str) -> None:
    data = of_text(text)

    refused(data)

    with pytest.raises(InvalidInput) as caught:
        check_weights(SCHEMA, data)
    assert caught.value.code == "SCHEMA_MISMATCH"


@given(st.text(max_size=60) | st.recursive(st.text() | st.none(), st.lists).map(json.dumps))
def test_any_text_is_refused_or_read(text: str) -> None:
    encodable = text.encode("utf-8", "replace").decode()
    try:
        levels = read_level_statistics(of_text(encodable))
    except SchemaMismatch:
        return
    assert levels == {}


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_are_refused_or_have_none(data: bytes, names_the_key: bool) -> None:
    if names_the_key:
        data += b'"fedfleet.levels"'
        data = len(data).to_bytes(8, "little") + data
    try:
        assert read_level_statistics(data) == {}
    except SchemaMismatch:
        assert names_the_key


def test_more_statistics_than_the_whole_model_has_are_refused() -> None:
    most = SCHEMA.elements(Kind.STATISTIC)
    fits, over = (
        encode_state(state(), {"c": np.zeros(size, np.float32)}) for size in (most, most + 1)
    )

    check_weights(SCHEMA, fits)
    with pytest.raises(SchemaMismatch, match="level c"):
        check_weights(SCHEMA, over)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"levels": "{}"}])
def test_files_of_other_programs_have_no_levels(metadata: dict[str, str] | None) -> None:
    assert read_level_statistics(file_of(metadata)) == {}


def test_a_tensor_by_the_name_of_the_key_is_no_metadata() -> None:
    assert read_level_statistics(save({KEY: np.zeros(3, np.float32)})) == {}


def test_one_level_is_written_as_it_always_was() -> None:
    data = of_text('{"b":"AACAPwAAAMA="}')

    assert read_level_statistics(data)["b"].tolist() == [1.0, -2.0]
    assert encode_state(state(seed=5), {"b": np.array([1, -2], np.float32)}) == data


def test_code_of_the_page_reads_a_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"^The statistics of level[^\n]*\n\n```python\n(.*?)^```", PAGE, re.S | re.M)
    assert found
    (tmp_path / "exported").mkdir()
    vector = np.linspace(-1, 1, 5, dtype=np.float32)
    data = encode_state(state(), {"b": vector[:2], "c": vector})
    (tmp_path / "exported" / "model.safetensors").write_bytes(data)
    (tmp_path / "load.py").write_text(found[1])
    monkeypatch.chdir(tmp_path)

    assert "fedfleet" not in found[1].replace("fedfleet.levels", "")
    assert runpy.run_path("load.py")["statistics"].tobytes() == vector.tobytes()
