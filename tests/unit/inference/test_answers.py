from __future__ import annotations

from detectors import CLASSIFIER, servable

from fedfleet.models.catalog import build
from fedfleet_inference_api.answers import ModelRef
from fedfleet_inference_api.backends.backend import Prepared
from fedfleet_inference_api.backends.mixed import Mixed
from fedfleet_inference_api.backends.onnx_runtime import OnnxRuntime, export_graph
from fedfleet_inference_api.backends.plain import PlainTorch


def test_every_form_of_a_backends_name_is_in_the_document_of_answers():
    plain = servable(CLASSIFIER).backend
    prepared = Prepared(build(CLASSIFIER), CLASSIFIER.inputs)
    onnx = OnnxRuntime(prepared, export_graph(prepared, CLASSIFIER.inputs), 1)

    examples = ModelRef.model_json_schema()["properties"]["backend"]["examples"]

    assert {plain.name, Mixed(onnx, PlainTorch(prepared), 3).name} <= set(examples)
