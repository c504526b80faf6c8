"""The KServe V2 protocol without its routes: what models there are, and one inference."""

from __future__ import annotations

import asyncio
import re

from fastapi import Request, Response

from fedfleet.errors import NotFound
from fedfleet.models.card import ModelCard
from fedfleet.store.protocols import VersionRecord
from fedfleet_inference_api.asking import all_of, ask, choose, forward, within
from fedfleet_inference_api.batcher import Forwarded
from fedfleet_inference_api.caller import Caller
from fedfleet_inference_api.servable import Servable
from fedfleet_inference_api.service import InferenceService
from fedfleet_inference_api.stopwatch import Stopwatch
from fedfleet_inference_api.v2_answers import V2Answer, V2Model, V2Parameters, V2TensorMeta
from fedfleet_inference_api.v2_body import json_bytes_of, read_inference
from fedfleet_inference_api.v2_pixels import UINT8
from fedfleet_inference_api.v2_request import Asked, Inference
from fedfleet_inference_api.v2_response import respond
from fedfleet_inference_api.v2_shapes import INPUT, input_shape, outputs_of
from fedfleet_inference_api.v2_tensors import tensors_of

PLATFORM = "fedfleet_safetensors"
_NUMBER = re.compile("[1-9][0-9]{0,17}")


async def model(service: InferenceService, name: str, version: str | None) -> V2Model:
    """What a model takes and gives.

    Raises:
        NotFound: no such model, or no such version of it.
    """
    shown = await _shown(service, name, version)
    records = await asyncio.to_thread(service.store.registry.versions, name)
    card = ModelCard.from_json(shown.card)
    if card.inputs.is_tokens:
        raise NotFound(f"model {name[:80]!r} reads text: this service serves models of images")
    kept = [str(record.number) for record in reversed(records) if record.retired_at_s is None]
    return V2Model(
        name=name,
        versions=kept,
        platform=PLATFORM,
        inputs=[V2TensorMeta(name=INPUT, datatype=UINT8, shape=input_shape(card))],
        outputs=[
            V2TensorMeta(name=output, datatype="FP32", shape=shape)
            for output, shape in outputs_of(card).items()
        ],
    )


async def _shown(service: InferenceService, name: str, version: str | None) -> VersionRecord:
    """The version that would answer."""
    if version is not None:
        return await service.pinned.record(name, number_of(version))
    current = service.follower.following.current
    if current is not None and current.record.model == name:
        return current.record
    return await service.pinned.record(name, service.config.serve_alias)


async def is_ready(service: InferenceService, name: str, version: str | None) -> bool:
    """Whether a version is in memory and answers at once.

    Raises:
        NotFound: as ``model``.
    """
    return service.pinned.is_here(await _shown(service, name, version))


def number_of(version: str) -> str:
    """Raises NotFound where it is no number, as of a version that is not there."""
    if not _NUMBER.fullmatch(version):
        raise NotFound(f"there is no version {version[:40]!r}: versions are numbers from 1 on")
    return version


async def infer(
    service: InferenceService, request: Request, name: str, version: str | None
) -> Response:
    """Answer the images in a request, as ``V2Inference`` with binary data behind it where asked.

    Raises:
        InvalidInput, BodyTooLarge, ImageInvalid: the request is not one of this protocol, or not of
            this model.
        NoModel, NotFound, VersionRetired, VersionInvalid, Unavailable, TimedOut: as ``predict``.
    """
    caller = Caller(request, service.config.request_timeout_s)
    return await within(service, caller, _infer(service, request, caller, name, version))


async def _infer(
    service: InferenceService, request: Request, caller: Caller, name: str, version: str | None
) -> Response:
    times = Stopwatch(service.metrics)
    service.predictor.check_room()
    json_bytes = json_bytes_of(request.headers)
    body = await request.body()
    with caller:
        times.lap("read")
        number = None if version is None else int(number_of(version))
        choice = await choose(service, caller.request_id, model=name, version=number)

        async def work(servable: Servable) -> Response:
            asked = Asked(name, servable.card, service.config.batch_images)

            def parse() -> Inference:
                caller.check()
                return read_inference(body, json_bytes, asked)

            with service.predictor.admitted():
                inference = await service.predictor.decode(parse)
            times.lap("decode")
            with service.predictor.admitted(len(inference.images)):
                forwards = await all_of(
                    forward(service, choice, servable, image, caller) for image in inference.images
                )
            _add(times, forwards)
            answers = [one.answer for one in forwards]

            def write() -> Response:
                caller.check()
                outputs = inference.outputs
                tensors = tensors_of(asked.card, answers, [one.name for one in outputs])
                answer = V2Answer(
                    model_name=servable.record.model,
                    model_version=str(servable.record.number),
                    id=inference.request_id,
                    parameters=V2Parameters(model=choice.ref(servable), latency_ms=times.latency()),
                )
                return respond(answer, outputs, tensors)

            return await service.predictor.decode(write)

        return await ask(service, choice, work)


def _add(times: Stopwatch, forwards: list[Forwarded]) -> None:
    for one in forwards:
        times.add("queue", one.queue_s)
        times.add("forward", one.forward_s)
