"""POST /predict and /predict/batch without their routes: from a request to its answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fastapi import Request

from fedfleet.data.images import Pixels
from fedfleet.errors import FedFleetError, ImageInvalid, ImageTooLarge, InvalidInput
from fedfleet_inference_api.answers import (
    BatchAnswer,
    BatchItem,
    ErrorDetail,
    ImageAnswer,
    PredictAnswer,
)
from fedfleet_inference_api.asking import Choice, all_of, ask, choose, forward, within
from fedfleet_inference_api.backends.backend import Answers
from fedfleet_inference_api.body_limit import HOLD
from fedfleet_inference_api.caller import Caller
from fedfleet_inference_api.reading import (
    check_query,
    detections_of,
    pixels_for,
    predictions_of,
)
from fedfleet_inference_api.servable import Servable
from fedfleet_inference_api.service import InferenceService
from fedfleet_inference_api.stopwatch import Stopwatch
from fedfleet_inference_api.uploads import (
    JSON,
    image_bytes,
    images_in,
    read_upload,
    read_uploads,
    url_in,
)


@dataclass(frozen=True)
class Wish:
    """What a caller asks for beside the image; None where it says nothing.

    Args:
        k: classes to name, of a classifier.
        version, alias: of the served model.
        score: the least of a detector's boxes.
    """

    k: int | None = None
    version: int | None = None
    alias: str | None = None
    score: float | None = None


async def predict(service: InferenceService, request: Request, wish: Wish) -> PredictAnswer:
    """Answer the image in the request.

    Raises:
        Unavailable: too many predictions are waiting.
        TimedOut: it took longer than the settings or the caller allow.
        NoModel, NotFound, VersionRetired, VersionInvalid: as ``choose`` and ``ask``.
        InvalidInput, ImageInvalid, ImageTooLarge, ImageUrlFailed: as ``uploads`` and ``images``.
    """
    caller = Caller(request, service.config.request_timeout_s)
    return await within(service, caller, _predict(service, request, caller, wish))


async def _predict(
    service: InferenceService, request: Request, caller: Caller, wish: Wish
) -> PredictAnswer:
    times = Stopwatch(service.metrics)
    service.predictor.check_room()  # before its bytes are sent for nothing
    media_type, body = await read_upload(request)
    with caller:
        url = await _url_in(service, media_type, body)
        if url is None:
            times.lap("read")
        choice = await _choose(service, caller, wish)
        if service.images is not None and url is not None:
            # Only now: whoever waits for a version to be loaded holds no image.
            media_type, body = "", await service.images.fetch(url, request.scope[HOLD])
            times.lap("read")

        async def work(servable: Servable) -> PredictAnswer:
            check_query(servable, wish.k, wish.score)

            def decode() -> Pixels:
                caller.check()
                return pixels_for(servable, image_bytes(media_type, body))

            image = await service.predictor.decode(decode)
            times.lap("decode")
            forwarded = await forward(service, choice, servable, image, caller)
            times.add("queue", forwarded.queue_s)
            times.add("forward", forwarded.forward_s)
            said = await _said(service, servable, forwarded.answer, wish)
            return PredictAnswer(
                predictions=said.predictions,
                detections=said.detections,
                model=choice.ref(servable),
                latency_ms=times.latency(),
            )

        # Only now: a caller that sends slowly holds nobody's place.
        with service.predictor.admitted():
            return await ask(service, choice, work)


async def _url_in(service: InferenceService, media_type: str, body: bytes) -> str | None:
    """The URL that a caller sends in place of an image; None where it sends none."""
    if service.images is None or media_type != JSON:
        return None
    with service.predictor.admitted():
        return await service.predictor.decode(lambda: url_in(body))


async def _choose(service: InferenceService, caller: Caller, wish: Wish) -> Choice:
    return await choose(service, caller.request_id, version=wish.version, alias=wish.alias)


async def _said(
    service: InferenceService, servable: Servable, answer: Answers, wish: Wish
) -> ImageAnswer:
    if servable.card.kind == "detection":  # many boxes take long: not on the event loop
        return ImageAnswer(
            detections=await service.predictor.decode(
                lambda: detections_of(servable, answer, wish.score)
            )
        )
    return ImageAnswer(predictions=predictions_of(servable, answer, wish.k))


async def predict_batch(service: InferenceService, request: Request, wish: Wish) -> BatchAnswer:
    """Answer several images with one version; what is wrong with one is its own answer.

    Raises:
        As ``predict``, for what concerns all of them.
    """
    caller = Caller(request, service.config.request_timeout_s)
    return await within(service, caller, _predict_batch(service, request, caller, wish))


async def _predict_batch(
    service: InferenceService, request: Request, caller: Caller, wish: Wish
) -> BatchAnswer:
    times, most = Stopwatch(service.metrics), service.config.batch_images
    service.predictor.check_room()
    sent = await read_uploads(request, most)
    with caller:
        images: list[bytes | FedFleetError]
        if isinstance(sent, bytes):
            body = sent
            with service.predictor.admitted():
                images = await service.predictor.decode(lambda: images_in(body, most))
        else:
            images = list(sent)
        times.lap("read")
        choice = await _choose(service, caller, wish)

        async def work(servable: Servable) -> BatchAnswer:
            check_query(servable, wish.k, wish.score)
            results = await all_of(
                _item(service, choice, servable, image, caller, wish, times) for image in images
            )
            return BatchAnswer(
                results=results, model=choice.ref(servable), latency_ms=times.latency()
            )

        with service.predictor.admitted(len(images)):
            return await ask(service, choice, work)


async def _item(
    service: InferenceService,
    choice: Choice,
    servable: Servable,
    sent: bytes | FedFleetError,
    caller: Caller,
    wish: Wish,
    times: Stopwatch,
) -> BatchItem:
    """One image's answer, or what is wrong with that image."""
    loop = asyncio.get_running_loop()
    if isinstance(sent, FedFleetError):
        return _wrong(sent)
    data = sent

    def decode() -> Pixels:
        caller.check()
        return pixels_for(servable, image_bytes("", data))

    began_s = loop.time()
    try:
        image = await service.predictor.decode(decode)
    except (ImageInvalid, ImageTooLarge, InvalidInput) as error:
        return _wrong(error)
    times.add("decode", loop.time() - began_s)
    forwarded = await forward(service, choice, servable, image, caller)
    times.add("queue", forwarded.queue_s)
    times.add("forward", forwarded.forward_s)
    said = await _said(service, servable, forwarded.answer, wish)
    return BatchItem(predictions=said.predictions, detections=said.detections)


def _wrong(error: FedFleetError) -> BatchItem:
    return BatchItem(error=ErrorDetail(code=error.code, message=error.message))
