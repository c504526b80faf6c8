"""Writes the answer to a V2 inference: JSON, with binary data behind it where asked.

The numbers of a large answer are written a chunk at a time: while pydantic writes, no other thread
has its turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from fastapi import Response
from pydantic import TypeAdapter

from fedfleet_inference_api.uploads import BINARY, JSON
from fedfleet_inference_api.v2_answers import V2Answer, V2Tensor, V2TensorParameters
from fedfleet_inference_api.v2_parameters import LENGTH_HEADER
from fedfleet_inference_api.v2_request import Output

_CHUNK = 65_536
_NUMBERS = TypeAdapter(list[float])

Tensor = npt.NDArray[np.float32]


def respond(answer: V2Answer, outputs: Sequence[Output], tensors: Mapping[str, Tensor]) -> Response:
    """A whole ``V2Inference``; call it outside the event loop.

    Args:
        tensors: little-endian; behind the JSON they come in the order of the outputs.
    """
    written = b",".join(_written(output, tensors[output.name]) for output in outputs)
    said = answer.model_dump_json(exclude_none=True).encode()
    text = _with_field(said, b"outputs", b"[" + written + b"]")
    binary = [tensors[output.name].tobytes() for output in outputs if output.is_binary]
    if not binary:
        return Response(text, media_type=JSON)
    headers = {LENGTH_HEADER: str(len(text))}
    return Response(b"".join([text, *binary]), media_type=BINARY, headers=headers)


def _written(output: Output, tensor: Tensor) -> bytes:
    """An output as it stands in the JSON, a ``V2Tensor``."""
    said = V2Tensor(name=output.name, datatype="FP32", shape=list(tensor.shape))
    if output.is_binary:
        said.parameters = V2TensorParameters(binary_data_size=tensor.nbytes)
    text = said.model_dump_json(exclude_none=True).encode()
    return text if output.is_binary else _with_field(text, b"data", _numbers(tensor))


def _numbers(tensor: Tensor) -> bytes:
    """A list: each number is written as the float32 that it is read as."""
    flat = tensor.ravel()
    chunks = (flat[start : start + _CHUNK].tolist() for start in range(0, flat.size, _CHUNK))
    return b"[" + b",".join(_NUMBERS.dump_json(chunk)[1:-1] for chunk in chunks) + b"]"


def _with_field(written: bytes, name: bytes, value: bytes) -> bytes:
    """A JSON object, not an empty one, with one more field."""
    return written[:-1] + b',"' + name + b'":' + value + b"}"
