"""Files that say they are safetensors, and are not what they say."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import save

from fedfleet.types import Kind, ModelState
from fedfleet.wire.weights import encode_state

Header = dict[str, Any]


def poisons(good: ModelState) -> dict[str, bytes]:
    """Each with one thing wrong, by what that is."""
    data = encode_state(good)
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    names = [name for name in header if name != "__metadata__"]
    first, last = names[0], names[-1]
    ends = header[last]["data_offsets"]

    def told(change: Callable[[Header], object], more: bytes = b"") -> bytes:
        changed = json.loads(json.dumps(header))
        change(changed)
        return packed(json.dumps(changed).encode(), body + more)

    def tensor(name: str, **fields: Any) -> bytes:
        return told(lambda h: h[name].update(fields))

    text = json.dumps(header).encode()
    twice = text[:-1] + f', "{first}": {json.dumps(header[last])}}}'.encode()
    pickled = io.BytesIO()
    with zipfile.ZipFile(pickled, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
    return {
        "nothing": b"",
        "seven bytes": data[:7],
        "no header": (0).to_bytes(8, "little") + body,
        "a header of 2^63 bytes": (1 << 63).to_bytes(8, "little") + data[8:],
        "a header of 2^64 bytes": b"\xff" * 8 + data[8:],
        "a header of 99 MB": (99_000_000).to_bytes(8, "little") + data[8:],
        "a header that is longer than the file": (len(data) - 7).to_bytes(8, "little") + data[8:],
        "a header cut short": (size - 1).to_bytes(8, "little") + data[8:],
        "a header that is no JSON": packed(b"{" * size, body),
        "a header that is no object": packed(b"[]", body),
        "a header that is no text": packed(b"\xff" * size, body),
        "a header as deep as it is long": packed(b'{"a":' * 100_000, body),
        "lists without end": packed(b'{"__metadata__":' + b"[" * 100_000, body),
        "metadata that is no text": told(lambda h: h.update(__metadata__={"x": {"y": 1}})),
        "two tensors of one name": packed(twice, body),
        "two tensors in one place": tensor(last, data_offsets=header[first]["data_offsets"]),
        "tensors that overlap": tensor(last, data_offsets=[ends[0] - 4, ends[1] - 4]),
        "a tensor that begins behind its end": tensor(last, data_offsets=ends[::-1]),
        "a tensor before the beginning": tensor(first, data_offsets=[-4, 0]),
        "a tensor beyond the end": tensor(last, data_offsets=[ends[1], 2 * ends[1] - ends[0]]),
        "a tensor at 2^63": tensor(last, data_offsets=[1 << 63, (1 << 63) + ends[1] - ends[0]]),
        "a tensor at 2^70": tensor(last, data_offsets=[1 << 70, (1 << 70) + 4]),
        "a tensor at half a byte": tensor(last, data_offsets=[ends[0] + 0.5, ends[1]]),
        "a shape of 2^62": tensor(last, shape=[1 << 62]),
        "a shape whose product is 0 in 64 bits": tensor(last, shape=[1 << 32, 1 << 32]),
        "a shape of nothing and all": tensor(last, shape=[0, 1 << 62], data_offsets=[ends[1]] * 2),
        "a shape of a thousand ones": tensor(last, shape=[1] * 1000),
        "a shape below zero": tensor(last, shape=[-1]),
        "a shape that is another": tensor(last, shape=[*header[last]["shape"][::-1], 1]),
        "another type of as many bytes": tensor(last, dtype="I32"),
        "a type of fewer bits": tensor(last, dtype="F8_E4M3"),
        "bfloat": tensor(last, dtype="BF16"),
        "doubles": told(lambda h: widen(h[last]), bytes(ends[1] - ends[0])),
        "a type that there is not": tensor(last, dtype="O"),
        "a type that is no text": tensor(last, dtype=7),
        "a tensor too few": save({name: good.tensors()[name] for name in names[:-1]}),
        "a tensor too many": save({**good.tensors(), "more": np.zeros(1, np.float32)}),
        "a tensor by another name": told(lambda h: h.update({f"{last}\n": h.pop(last)})),
        "a byte too many": data + b"\0",
        "a byte too few": data[:-1],
        "a pickle": pickled.getvalue(),
        "a page": b"<!doctype html><script>alert(1)</script>",
    }


def widen(entry: Header) -> None:
    begin, end = entry["data_offsets"]
    entry.update(dtype="F64", data_offsets=[begin, 2 * end - begin])


def packed(header: bytes, body: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + body


def not_finite(good: ModelState) -> bytes:
    """A well-formed file of a model that answers NaN."""
    trainable_P = np.full_like(good.trainable, np.nan)
    state = ModelState(good.schema, trainable_P, good.statistics, good.counters)
    assert state.vector(Kind.TRAINABLE).size
    return encode_state(state)
