"""One request's way through the service: which version, how long, what if that version fails."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from fedfleet.data.images import Pixels
from fedfleet.errors import InvalidInput, NoModel, TimedOut, VersionInvalid
from fedfleet_inference_api.answers import ModelRef, model_ref
from fedfleet_inference_api.batcher import Forwarded
from fedfleet_inference_api.blame import Blame, VersionFailedError
from fedfleet_inference_api.caller import Caller
from fedfleet_inference_api.canary import CANARY, SHADOW, falls_in
from fedfleet_inference_api.servable import Servable
from fedfleet_inference_api.service import InferenceService

T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """The version that answers a request.

    Args:
        alias: by which it was asked for, empty by its number; None: whatever is served.
        request_id: decides whether the candidate answers, and whether it is shown the image.
        is_pinned: no other version may answer.
    """

    servable: Servable
    alias: str | None
    request_id: str
    is_pinned: bool = False

    def ref(self, answered: Servable) -> ModelRef:
        """Name the version that answered in the end."""
        return model_ref(answered, self.alias if answered is self.servable else None)


async def within(service: InferenceService, caller: Caller, work: Awaitable[T]) -> T:
    """Await an answer for as long as the caller waits.

    Raises:
        TimedOut: it took longer.
    """
    with service.counted():
        try:
            return await asyncio.wait_for(work, caller.timeout_s)
        except asyncio.TimeoutError as error:
            raise TimedOut(
                f"the prediction took more than {caller.timeout_s:g} s, its upload included"
            ) from error


async def choose(
    service: InferenceService,
    request_id: str,
    *,
    model: str = "",
    version: int | None = None,
    alias: str | None = None,
) -> Choice:
    """The version to answer with; a request asks once and keeps it to its end.

    Args:
        model: empty for the one that is served.
        version, alias: as the caller asked; one of both, or none.

    Raises:
        NoModel: nothing has been loaded and warmed up yet.
        NotFound, VersionRetired, VersionInvalid, Unavailable: as ``Pinned.servable``.
    """
    if version is not None and alias is not None:
        raise InvalidInput("version and alias: ask for one of them")
    following = service.follower.following  # once: another model may be served a moment later
    current = following.current
    served_name = current.record.model if current else service.config.serve_model
    name = model or served_name
    is_served_alias = alias is None or alias == service.config.serve_alias
    if version is None and is_served_alias and name == served_name:
        servable = service.served(following)
        request_id = request_id or uuid.uuid4().hex
        if alias is None:
            servable = _canary(service, following.candidate, servable, request_id)
        return Choice(servable, _as_asked(servable, alias), request_id)
    if not name:
        service.served(following)  # says why there is none
    wanted = str(version) if version is not None else alias or service.config.serve_alias
    servable = await service.pinned.servable(name, wanted)
    asked_as = "" if version is not None else wanted
    return Choice(servable, asked_as, request_id, is_pinned=True)


def _as_asked(servable: Servable, alias: str | None) -> str | None:
    """The alias that a caller asked for; empty where it points at a version that is not served."""
    return alias if alias is None or servable.alias == alias else ""


def _canary(
    service: InferenceService, candidate: Servable | None, current: Servable, request_id: str
) -> Servable:
    share = service.config.canary_share
    if candidate is None or not share:
        return current
    is_canary = falls_in(share, CANARY, request_id)
    service.metrics.arms.labels("candidate" if is_canary else "current").inc()
    return candidate if is_canary else current


async def ask(
    service: InferenceService, choice: Choice, work: Callable[[Servable], Awaitable[T]]
) -> T:
    """Do the work with the chosen version; where it fails, once more with the one before it.

    Raises:
        VersionInvalid: the version that was asked for gives no answer.
        NoModel: so does the served one, and there is no other.
    """
    try:
        return await work(choice.servable)
    except VersionFailedError as failed:
        other = service.follower.failed(failed.servable, failed.fault)
        if choice.is_pinned or other is None:
            raise _final(choice, failed) from failed
    try:
        return await work(other)
    except VersionFailedError as failed:
        service.follower.failed(failed.servable, failed.fault)
        raise _final(choice, failed) from failed


def _final(choice: Choice, failed: VersionFailedError) -> Exception:
    """What the caller is told."""
    if choice.is_pinned or not isinstance(failed.fault, VersionInvalid):
        return failed.fault
    return NoModel(f"there is no version that answers: {failed.fault.message}")


async def forward(
    service: InferenceService, choice: Choice, servable: Servable, image: Pixels, caller: Caller
) -> Forwarded:
    """Have a version answer one image; show it to the candidate where the settings say so.

    Raises:
        VersionFailedError: the version failed.
        Unavailable, TimedOut, ClientDisconnect: as ``Predictor.forward``.
    """
    with Blame(servable):
        forwarded = await service.predictor.forward(
            servable, image, deadline_s=caller.deadline_s, is_gone=caller.has_left
        )
    following, share = service.follower.following, service.config.shadow_share
    if (
        following.candidate is not None
        and servable is following.current
        and choice.alias is None
        and falls_in(share, SHADOW, choice.request_id)
    ):
        service.shadow.mirror(servable, following.candidate, image, forwarded.answer)
    return forwarded


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await several at once; where one raises, end the others. Any: what coroutines take in."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
