"""What a V2 inference request asks, read from its JSON and the binary data behind that.

Legend: B = batch, C = channels, H = height, W = width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedfleet.data.images import Pixels
from fedfleet.errors import InvalidInput
from fedfleet.models.card import ModelCard
from fedfleet_inference_api.v2_parameters import (
    BINARY_OUTPUT,
    BINARY_OUTPUTS,
    BINARY_SIZE,
    LENGTH_HEADER,
    flag_of,
    parameters_of,
    size_of,
)
from fedfleet_inference_api.v2_pixels import (
    DATATYPES,
    binary_bytes,
    pixels_from_binary,
    pixels_from_json,
)
from fedfleet_inference_api.v2_shapes import INPUT, check_answer, input_shape, outputs_of

_FIELDS = {"model_name", "id", "parameters", "inputs", "outputs"}


@dataclass(frozen=True)
class Output:
    """One tensor of the answer, and whether it comes as binary data."""

    name: str
    is_binary: bool = False


@dataclass(frozen=True)
class Inference:
    """What an infer request asks.

    Args:
        images: uint8, shape (B, C, H, W); may be the body's own bytes, not to be written to.
        outputs: in the order of the answer.
    """

    request_id: str | None
    images: Pixels
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class Asked:
    """Of whom is asked: what a request is read by.

    Args:
        model: its name, as in the path.
        most: images in one request.
    """

    model: str
    card: ModelCard
    most: int


def parse_inference(value: object, asked: Asked, behind: memoryview) -> Inference:
    """Check a request, field by field.

    Args:
        value: what its JSON holds.
        behind: the bytes behind the JSON.

    Raises:
        InvalidInput: says which field is wrong.
    """
    if not isinstance(value, dict):
        raise InvalidInput("the body must be a JSON object")
    _check_fields(value, _FIELDS, "the request")
    if value.get("model_name", asked.model) != asked.model:
        raise InvalidInput(f"model_name: the path asks for {asked.model!r}")
    request_id = value.get("id")
    # Half of a surrogate pair, which JSON can hold, has no UTF-8: no answer could repeat it.
    if request_id is not None and not (isinstance(request_id, str) and _has_utf8(request_id)):
        raise InvalidInput("id: must be a text")
    parameters = parameters_of(value.get("parameters"), "parameters", BINARY_OUTPUTS)
    is_binary = flag_of(parameters, BINARY_OUTPUTS, "parameters", default=False)
    inputs = value.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise InvalidInput(f"inputs: must be a list of one tensor, named {INPUT!r}")
    outputs = _outputs(value.get("outputs"), asked.card, is_binary=is_binary)
    images = _images(inputs[0], asked, behind)
    check_answer(asked.card, [one.name for one in outputs], len(images))
    return Inference(request_id, images, outputs)


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _images(tensor: object, asked: Asked, behind: memoryview) -> Pixels:
    if not isinstance(tensor, dict):
        raise InvalidInput("inputs[0]: must be an object")
    _check_fields(tensor, {"name", "shape", "datatype", "parameters", "data"}, "inputs[0]")
    parameters = parameters_of(tensor.get("parameters"), "inputs[0].parameters", BINARY_SIZE)
    if tensor.get("name") != INPUT:
        raise InvalidInput(f"inputs[0].name: the model has one input, {INPUT!r}")
    shape = _shape(tensor.get("shape"), asked)
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise InvalidInput(f"inputs[0].datatype: must be {' or '.join(DATATYPES)}")
    size_bytes = size_of(parameters, BINARY_SIZE, "inputs[0].parameters")
    if size_bytes is None:
        if len(behind):
            raise InvalidInput(
                f"{len(behind)} bytes come behind the JSON, and no input has {BINARY_SIZE}"
            )
        return pixels_from_json(tensor.get("data"), datatype, shape)
    if "data" in tensor:
        raise InvalidInput(f"inputs[0].data: the tensor has {BINARY_SIZE}; send one of both")
    want_bytes = binary_bytes(datatype, shape)
    if size_bytes != want_bytes:
        raise InvalidInput(
            f"inputs[0].parameters.{BINARY_SIZE} = {str(size_bytes)[:40]}: {datatype} of that "
            f"shape has {want_bytes} bytes"
        )
    if len(behind) != size_bytes:
        raise InvalidInput(
            f"inputs[0].parameters.{BINARY_SIZE} = {size_bytes}: {len(behind)} bytes come behind "
            f"the JSON, whose length is to stand in the header {LENGTH_HEADER}"
        )
    return pixels_from_binary(behind, datatype, shape)


def _shape(value: object, asked: Asked) -> tuple[int, ...]:
    want = input_shape(asked.card)
    if (
        not isinstance(value, list)
        or not all(type(side) is int for side in value)
        or value[1:] != want[1:]
        or not 1 <= value[0] <= asked.most
    ):
        raise InvalidInput(f"inputs[0].shape: must be {want[1:]} behind 1 to {asked.most} images")
    return tuple(value)


def _outputs(value: object, card: ModelCard, *, is_binary: bool) -> tuple[Output, ...]:
    """Which there are to be; ``is_binary`` is of those that do not say it themselves."""
    known = list(outputs_of(card))
    if value is None or value == []:
        return (Output(known[0], is_binary),)
    if not isinstance(value, list) or len(value) > len(known):
        raise InvalidInput(f"outputs: must be a list of some of {', '.join(known)}")
    outputs: dict[str, Output] = {}
    for place, output in enumerate(value):
        where = f"outputs[{place}]"
        if not isinstance(output, dict) or output.get("name") not in known:
            raise InvalidInput(f"{where}.name: must be one of {', '.join(known)}")
        _check_fields(output, {"name", "parameters"}, where)
        name, where = output["name"], f"{where}.parameters"
        parameters = parameters_of(output.get("parameters"), where, BINARY_OUTPUT)
        if name in outputs:
            raise InvalidInput(f"outputs[{place}].name: {name!r} is named twice")
        outputs[name] = Output(name, flag_of(parameters, BINARY_OUTPUT, where, default=is_binary))
    return tuple(outputs.values())


def _check_fields(value: Mapping[str, object], known: set[str], where: str) -> None:
    odd = sorted(set(value) - known)
    if odd:
        raise InvalidInput(f"{where}: the field {odd[0][:40]!r} is unknown")
