"""Speaks the binary tensor data of the KServe V2 protocol, byte by byte, as its page has it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

HEADER = "Inference-Header-Content-Length"
TYPES = {"u1": "UINT8", "f4": "FP32"}


def tensor_of(images: np.ndarray) -> dict[str, object]:
    """An input whose data are behind the JSON."""
    return {
        "name": "image",
        "shape": list(images.shape),
        "datatype": TYPES[images.dtype.str[1:]],
        "parameters": {"binary_data_size": images.nbytes},
    }


def body_of(value: object, *behind: bytes) -> tuple[bytes, dict[str, str]]:
    """A body and its headers."""
    text = json.dumps(value).encode()
    headers = {"content-type": "application/octet-stream", HEADER: str(len(text))}
    return b"".join([text, *behind]), headers


def asked_with(
    images: np.ndarray, outputs: Mapping[str, bool] | None = None, **fields: object
) -> tuple[bytes, dict[str, str]]:
    """A request for some outputs, each binary or not; without them for all binary, as is usual."""
    value: dict[str, object] = {"inputs": [tensor_of(images)], **fields}
    if outputs is None:
        value["parameters"] = {"binary_data_output": True}
    else:
        value["outputs"] = [
            {"name": name, "parameters": {"binary_data": is_binary}}
            for name, is_binary in outputs.items()
        ]
    return body_of(value, images.tobytes())


def answer_in(
    content: bytes, headers: Mapping[str, str]
) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """The JSON of an answer, and all its outputs; every byte of it has to belong to one."""
    end = int(headers.get(HEADER, len(content)))
    said = json.loads(content[:end])
    tensors: dict[str, np.ndarray] = {}
    for output in said["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        assert ("data" in output) == (size is None), "either JSON or binary data"
        assert output["datatype"] == "FP32"
        if size is None:
            flat = np.array(output["data"], "<f4")
        else:
            flat = np.frombuffer(content[end : end + size], "<f4")
            end += size
        tensors[output["name"]] = flat.reshape(output["shape"])
    assert end == len(content)
    return said, tensors
