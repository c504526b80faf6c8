"""A version's state as a safetensors file and back. The bytes are a function of what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedfleet.errors import SchemaMismatch
from fedfleet.types import Array, FloatVector, ModelState, Schema
from fedfleet.wire.level_statistics import to_metadata

_NONE: Mapping[str, FloatVector] = MappingProxyType({})


def encode_state(state: ModelState, levels: Mapping[str, FloatVector] = _NONE) -> bytes:
    """Return the state as a safetensors file that plain PyTorch can load by name.

    The file's SHA-256 is the version's identity, so equal states must give equal bytes: no other
    metadata goes in than the levels' statistics.

    Args:
        levels: statistics that narrower slices of the state have, for ``read_level_statistics``.
    """
    return _encoded(state.tensors(), to_metadata(levels))


def decode_state(schema: Schema, data: bytes) -> ModelState:
    """Read a safetensors file.

    Raises:
        SchemaMismatch: not a safetensors file, or its tensors are not those of the schema.
    """
    tensors = decode_arrays(data)
    kinds = {param.name: param.kind for param in schema.params}
    for name, tensor in tensors.items():
        if name in kinds and tensor.dtype != kinds[name].dtype:
            raise SchemaMismatch(f"{name} is {tensor.dtype}, expected {kinds[name].dtype}")
    return ModelState.from_tensors(schema, tensors)


def encode_arrays(arrays: Mapping[str, Array]) -> bytes:
    """Return named arrays (a model, an algorithm's memory) as a safetensors file."""
    return _encoded(arrays, None)


def _encoded(arrays: Mapping[str, Array], metadata: dict[str, str] | None) -> bytes:
    # Not ascontiguousarray: it would make a scalar (batches tracked) a vector of one.
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return save(whole, metadata)


def decode_arrays(data: bytes) -> dict[str, Array]:
    """Read what ``encode_arrays`` wrote.

    Raises:
        SchemaMismatch: not a safetensors file.
    """
    try:
        return load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise SchemaMismatch(
            "the file is not a readable safetensors file; download it again", detail=str(error)
        ) from error
