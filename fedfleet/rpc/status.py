"""Our errors as gRPC statuses and back: the stable code travels in the trailing metadata."""

from __future__ import annotations

import asyncio
import inspect
import logging
from contextlib import aclosing
from typing import Any, NoReturn

import grpc

from fedfleet.errors import (
    FedFleetError,
    LimitExceeded,
    NotServed,
    TimedOut,
    Unavailable,
    error_for_code,
)
from fedfleet.rpc.patience import within

logger = logging.getLogger(__name__)

CODE_KEY = "fedfleet-code"
# Statuses that grpc itself gives to a call whose connection or server went away: what our servers
# answer on purpose carries a code.
_CONNECTION_LOST = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
)
# grpc drops a status whose metadata pass 8 KiB, and escaping makes three bytes of one.
MAX_MESSAGE_UTF8_BYTES = 2048
MAX_LOGGED = 2048


def status_of(error: FedFleetError) -> grpc.StatusCode:
    """The gRPC status of an error."""
    status: grpc.StatusCode = getattr(grpc.StatusCode, error.status)
    return status


def error_of(error: grpc.RpcError) -> FedFleetError:
    """The error that the other side raised, or what the transport's failure means."""
    details = one_line(str(getattr(error, "details", lambda: "")() or "the call failed"))
    metadata = getattr(error, "trailing_metadata", lambda: None)() or ()
    for key, value in metadata:
        if key == CODE_KEY:
            return error_for_code(str(value), details)
    status = getattr(error, "code", lambda: None)()
    if status in _CONNECTION_LOST:
        return Unavailable("the coordinator cannot be reached; is it running?", detail=details)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOut("the coordinator did not answer in time", detail=details)
    if status is grpc.StatusCode.UNIMPLEMENTED:
        return NotServed("the other side does not serve this call; run the same release there")
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return LimitExceeded(f"a limit of the connection was passed: {details}")
    return FedFleetError(f"the call failed: {status.name if status else 'unknown'}: {details}")


def one_line(text: str) -> str:
    """A text without what would break, colour or turn around the line that it is printed in."""
    return "".join(c if c.isprintable() else "?" for c in text)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> NoReturn:
    """End a call with an error; one that nobody foresaw is logged and sent as INTERNAL."""
    if isinstance(error, FedFleetError):
        known = error
        # Either may hold what the caller wrote.
        reason, detail = error.message[:MAX_LOGGED], error.detail[:MAX_LOGGED]
        fields = {"code": error.code, "reason": reason, "detail": detail}
        logger.info("rpc_refused", extra=fields)
    else:
        logger.error("rpc_failed", exc_info=error)
        known = FedFleetError("internal error; the server's log says more")
    text = one_line(known.message).encode()[:MAX_MESSAGE_UTF8_BYTES].decode(errors="ignore")
    await context.abort(status_of(known), text, ((CODE_KEY, known.code),))
    raise AssertionError("abort returned")


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """The only place that turns exceptions of handlers into statuses.

    Args:
        stall_s: how long a caller may read nothing of a stream.
    """

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Wrap a handler. Any: grpc types its handlers so."""
        handler = await continuation(details)
        if handler is None:
            return None
        if handler.request_streaming and not handler.response_streaming:
            return grpc.stream_unary_rpc_method_handler(
                _unary(handler.stream_unary),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.response_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            behavior = handler.stream_stream or handler.unary_stream
            # grpc's own health service writes its answers instead of yielding them.
            call = (
                _stream(behavior, self._stall_s)
                if inspect.isasyncgenfunction(behavior)
                else _unary(behavior)
            )
            return make(call, handler.request_deserializer, handler.response_serializer)
        return grpc.unary_unary_rpc_method_handler(
            _unary(handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )


def _unary(behavior: Any) -> Any:
    async def call(request: Any, context: Any) -> Any:
        try:
            return await behavior(request, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:
            await abort(context, error)

    return call


async def _write(context: Any, response: Any, stall_s: float) -> None:
    """Send a response; a caller that does not read is let go, as one that does not send is."""
    try:
        await within(stall_s, context.write(response))
    except asyncio.TimeoutError as error:
        raise TimedOut(f"the caller read nothing for {stall_s:g} s") from error


def _stream(behavior: Any, stall_s: float) -> Any:
    async def call(request: Any, context: Any) -> Any:
        try:
            # Written and closed here: grpc would leave a generator that was cancelled between two
            # responses to the garbage collector, and its finally would run some time later.
            async with aclosing(behavior(request, context)) as responses:
                async for response in responses:
                    await _write(context, response, stall_s)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:
            await abort(context, error)

    return call
