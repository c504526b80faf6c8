"""ONNX Runtime: the version's graph, exported once, with each version's weights.

Exporting takes half a second that no other thread gets to run in; so the graph of an architecture
is kept without weights, and a new version only hands its own in.
"""

from __future__ import annotations

import importlib
import io
import warnings
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedfleet.data.images import Pixels
from fedfleet.types import InputSpec
from fedfleet_inference_api.backends.backend import Answers, BackendMissingError, Prepared

OPSET = 17  # the newest that onnxruntime 1.17, the oldest that we take, knows all of
_INPUT, _OUTPUT = "images", "answers"
# Where torch says that this exporter is the older one: in itself, and of whoever calls it.
_EXPORTERS = rf"torch\.(onnx|jit)|{__name__}"
_TRACED = 2  # images; with one, some modules would leave the batch out
_WARNINGS_AND_WORSE = 3  # of onnxruntime's levels: errors


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """An architecture as ONNX has it, its weights left out.

    Args:
        names: of the weights, as ``Prepared.state_dict`` has them.
    """

    data: bytes
    names: tuple[str, ...]


class OnnxRuntime:
    """A session of ONNX Runtime on the processor.

    Args:
        graph: of ``export_graph``, of the same architecture.
        threads: 0 leaves ONNX Runtime's own number.

    Raises:
        BackendMissingError: the library is not installed.
    """

    name = "onnx"

    def __init__(self, prepared: Prepared, graph: OnnxGraph, threads: int) -> None:
        runtime = _library("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _WARNINGS_AND_WORSE
        # Threads that wait must not keep processors busy that torch or the event loop could use.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        state = prepared.state_dict()
        arrays = [state[name].contiguous().numpy() for name in graph.names]
        values = [runtime.OrtValue.ortvalue_from_numpy(array) for array in arrays]
        options.add_external_initializers(list(graph.names), values)  # copied, says its API
        self._session = runtime.InferenceSession(
            graph.data, options, providers=["CPUExecutionProvider"]
        )

    def run(self, images: Pixels) -> Answers:
        answers: Answers = self._session.run([_OUTPUT], {_INPUT: np.ascontiguousarray(images)})[0]
        return answers


def export_graph(prepared: Prepared, inputs: InputSpec) -> OnnxGraph:
    """Export an architecture; nothing is written to a file.

    Raises:
        BackendMissingError: the library is not installed, or a weight does not come out as it is.
    """
    onnx = _library("onnx")
    file = io.BytesIO()
    shape = (_TRACED, inputs.channels, inputs.height, inputs.width)
    images = torch.zeros(shape, dtype=torch.uint8)
    with warnings.catch_warnings():
        # The newer exporter needs onnxscript and takes seconds.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=_EXPORTERS)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        torch.onnx.export(
            _with_other_weights(prepared),
            (images,),
            file,  # type: ignore[arg-type]  # of dynamo=False it may be a buffer
            dynamo=False,
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            dynamic_axes={_INPUT: {0: "batch"}, _OUTPUT: {0: "batch"}},
            opset_version=OPSET,
            # What is folded is ONNX Runtime's to do, with each version's weights.
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )
    model = onnx.load_model_from_string(file.getvalue())
    return _without_weights(onnx, model, prepared.state_dict())


def _with_other_weights(prepared: Prepared) -> Prepared:
    """A copy whose weights differ from each other: the exporter merges those that are equal."""
    copy = deepcopy(prepared)
    generator = torch.Generator().manual_seed(1)
    for tensor in copy.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return copy


# Any: onnx has no types that mypy may follow.
def _without_weights(onnx: Any, model: Any, state: dict[str, Tensor]) -> OnnxGraph:
    """Take the weights out of an exported model and say that they come from outside."""
    names = tuple(weight.name for weight in model.graph.initializer)
    unknown = sorted(set(names) - set(state))
    if unknown:
        raise BackendMissingError(f"the exporter made weights of its own: {unknown[0]}")
    for weight in model.graph.initializer:
        tensor = state[weight.name]
        for field in ("raw_data", "float_data", "int32_data", "int64_data"):
            weight.ClearField(field)
        weight.data_location = onnx.TensorProto.EXTERNAL
        places = {"location": "memory", "offset": 0, "length": tensor.nbytes}
        for key, value in places.items():
            entry = weight.external_data.add()
            entry.key, entry.value = key, str(value)
    return OnnxGraph(model.SerializeToString(), names)


# Any: neither library has types that mypy may follow.
def _library(name: str) -> Any:
    """Import a library where it is needed: it takes time, and may be missing on a small device."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendMissingError(f"{name} cannot be imported: {error}") from error
