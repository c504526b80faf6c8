"""Parameters in a V2 request: those of the extension for binary data, and those of no use here."""

from __future__ import annotations

from collections.abc import Mapping

from fedfleet.errors import InvalidInput

# Of a request: whether its outputs come as binary data; of an output: whether that one does.
BINARY_OUTPUTS, BINARY_OUTPUT = "binary_data_output", "binary_data"
# Of a tensor: how many bytes of binary data it has behind the JSON.
BINARY_SIZE = "binary_data_size"
# How many bytes of a body are JSON, the rest being binary data; without it all of them are.
LENGTH_HEADER = "Inference-Header-Content-Length"
# They ask for something; all others only describe data and are allowed anywhere.
_EXTENSIONS = {BINARY_OUTPUTS, BINARY_OUTPUT, BINARY_SIZE, "classification"}
_SHARED_MEMORY, _SEQUENCE = "shared_memory_", "sequence_"

Parameters = Mapping[str, object]


def parameters_of(value: object, where: str, served: str) -> Parameters:
    """The parameters of a request or a part of it.

    Args:
        served: of those that ask for something, the one that is heard in this place.

    Raises:
        InvalidInput: not an object, or it asks for what is not served.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{where}: must be an object")
    for name, wish in value.items():
        asks = name in _EXTENSIONS or name.startswith((_SHARED_MEMORY, _SEQUENCE))
        if asks and name != served and wish is not False:
            raise InvalidInput(f"{where}: {name[:40]!r} is an extension that is not served here")
    return value


def flag_of(parameters: Parameters, name: str, where: str, *, default: bool) -> bool:
    """Raises InvalidInput where it is neither true nor false."""
    flag = parameters.get(name, default)
    if not isinstance(flag, bool):
        raise InvalidInput(f"{where}.{name}: must be true or false")
    return flag


def size_of(parameters: Parameters, name: str, where: str) -> int | None:
    """A number of bytes; None where there is none.

    Raises:
        InvalidInput: it is no number of bytes.
    """
    size = parameters.get(name, False)
    if size is False:
        return None
    if type(size) is not int or size < 0:
        raise InvalidInput(f"{where}.{name}: must be a number of bytes")
    return size
