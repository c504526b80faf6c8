from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import grpc
import pytest
from raising_server import Served, serving

from fedfleet.errors import FedFleetError, InvalidInput, NotFound, all_errors
from fedfleet.rpc.status import (
    CODE_KEY,
    MAX_LOGGED,
    MAX_MESSAGE_UTF8_BYTES,
    error_of,
    status_of,
)
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1 import federation_service_pb2 as federation_pb

CALL_S = 10.0


async def unary(served: Served) -> None:
    await served.control.GetRun(pb.GetRunRequest(run_id="x"), timeout=CALL_S)


async def server_stream(served: Served) -> None:
    async for response in served.control.WatchRun(pb.WatchRunRequest(run_id="x"), timeout=CALL_S):
        assert response.event.run_id == "x"


async def client_stream(served: Served) -> None:
    def requests() -> Iterator[pb.ImportVersionRequest]:
        yield pb.ImportVersionRequest(chunk=b"piece")

    await served.control.ImportVersion(requests(), timeout=CALL_S)


async def both_stream(served: Served) -> None:
    async def requests() -> AsyncIterator[federation_pb.ConnectRequest]:
        yield federation_pb.ConnectRequest(hello=federation_pb.Hello(worker_id="w"))

    async for response in served.federation.Connect(requests(), timeout=CALL_S):
        assert response.WhichOneof("message") == "welcome"


SHAPES = [unary, server_stream, client_stream, both_stream]
Call = Callable[..., Awaitable[None]]


async def raised(
    call: Call, served: Served, error: Callable[[], Exception]
) -> grpc.aio.AioRpcError:
    served.servicer.error = error
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(served)
    return caught.value


@pytest.mark.parametrize("call", SHAPES)
async def test_every_error_comes_out_of_a_real_call_as_it_went_in(
    call: Call, served: Served
) -> None:
    for cls in all_errors():
        text = f"{cls.__name__}: fährt 3 €, one line"

        failure = await raised(call, served, lambda: cls(text, detail="secret"))  # noqa: B023

        again = error_of(failure)
        assert type(again) is cls
        assert (again.code, again.message, again.detail) == (cls.code, text, "")
        assert failure.code() is status_of(again)
        assert failure.code().name == cls.status
        assert "secret" not in str(failure.trailing_metadata())


@pytest.mark.parametrize("call", SHAPES)
async def test_unknown_exception_leaks_nothing_and_is_logged(
    call: Call, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    failure = await raised(call, served, lambda: ValueError("password is 1234"))

    assert failure.code() is grpc.StatusCode.INTERNAL
    again = error_of(failure)
    assert again.code == "INTERNAL"
    assert again.message == "internal error; the server's log says more"
    assert "1234" not in repr(failure)
    (record,) = [r for r in caplog.records if r.message == "rpc_failed"]
    assert record.levelno == logging.ERROR
    assert "password is 1234" in str(record.exc_info)


async def test_refusal_is_logged_with_its_detail(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    await raised(unary, served, lambda: NotFound("no run", detail="table runs"))

    (record,) = [r for r in caplog.records if r.message == "rpc_refused"]
    fields = vars(record)
    assert [fields[k] for k in ("code", "reason", "detail")] == [
        "NOT_FOUND",
        "no run",
        "table runs",
    ]


@pytest.mark.parametrize("text", ["x" * 60_000, "\u20ac" * 20_000, "broken \ud800 text"])
async def test_code_survives_a_text_that_is_too_long_or_broken(text: str, served: Served) -> None:
    again = error_of(await raised(unary, served, lambda: InvalidInput(text)))

    assert type(again) is InvalidInput
    assert again.message
    assert len(again.message.encode()) <= MAX_MESSAGE_UTF8_BYTES


BREAKING = "x\n/mallory \x1b[2J \r\t \u202e \u2028 \x00 \ud800 fährt 3 €"
PRINTED = "x?/mallory ?[2J ?? ? ? ? ? fährt 3 €"


async def test_text_on_the_wire_is_one_line_whatever_the_caller_wrote(served: Served) -> None:
    failure = await raised(unary, served, lambda: InvalidInput(BREAKING))

    assert failure.details() == PRINTED


async def test_log_takes_no_more_of_a_text_than_a_line(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    await raised(unary, served, lambda: InvalidInput("x" * 10**6, detail="y" * 10**6))

    (record,) = [r for r in caplog.records if r.message == "rpc_refused"]
    assert len(vars(record)["reason"]) == len(vars(record)["detail"]) == MAX_LOGGED


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OUT_OF_RANGE])
def test_text_of_the_other_side_is_one_line(status: grpc.StatusCode) -> None:
    for metadata in (grpc.aio.Metadata(), grpc.aio.Metadata((CODE_KEY, "NOT_FOUND"))):
        failure = grpc.aio.AioRpcError(status, grpc.aio.Metadata(), metadata, details=BREAKING)

        again = error_of(failure)

        assert PRINTED in again.message + again.detail
        assert (again.message + again.detail).isprintable()


async def test_server_goes_on_after_errors(served: Served) -> None:
    for error in (ValueError, KeyError, lambda: NotFound("x")):
        await raised(unary, served, error)

    answer = await served.control.GetRun(pb.GetRunRequest(run_id="fine"), timeout=CALL_S)
    assert answer.run.run_id == "fine"


async def test_stream_that_the_caller_leaves_runs_its_finally(served: Served) -> None:
    call = served.control.WatchRun(pb.WatchRunRequest(run_id="endless"), timeout=CALL_S)
    await call.read()

    call.cancel()
    await served.server.stop(5.0)

    assert served.servicer.closed == ["WatchRun"]


async def test_caller_that_does_not_read_is_let_go_after_the_stall(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(stall_s=0.2) as served:
        call = served.control.WatchRun(pb.WatchRunRequest(run_id="endless"), timeout=CALL_S)
        await call.read()

        await asyncio.wait_for(served.servicer.ended.wait(), CALL_S)

        call.cancel()
    (record,) = [r for r in caplog.records if r.message == "rpc_refused"]
    assert vars(record)["reason"] == "the caller read nothing for 0.2 s"


# What did not come from our handlers


async def test_call_to_nobody_is_unavailable(served: Served) -> None:
    await served.server.stop(0)

    failure = await raised(unary, served, ValueError)

    again = error_of(failure)
    assert again.code == "UNAVAILABLE"
    assert again.retryable
    assert again.detail


async def test_call_without_an_answer_in_time_is_timed_out(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        call = served.control.WatchRun(pb.WatchRunRequest(run_id="endless"), timeout=0.2)
        async for _ in call:
            pass
    assert error_of(caught.value).code == "TIMED_OUT"


async def test_call_that_the_other_side_does_not_know_is_not_served(served: Served) -> None:
    unknown = served.channel.unary_unary("/fedfleet.v2.Service/Call")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unknown(b"", timeout=CALL_S)
    assert error_of(caught.value).code == "NOT_SERVED"


async def test_message_beyond_the_limit_is_a_limit_exceeded(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.control.GetRun(pb.GetRunRequest(run_id="x" * (17 << 20)), timeout=CALL_S)
    assert error_of(caught.value).code == "LIMIT_EXCEEDED"


@pytest.mark.parametrize("status", [s for s in grpc.StatusCode if s is not grpc.StatusCode.OK])
def test_every_status_maps_to_an_error_with_or_without_a_code(status: grpc.StatusCode) -> None:
    bare = grpc.aio.AioRpcError(status, grpc.aio.Metadata(), grpc.aio.Metadata(), details="why")
    foreign = grpc.aio.AioRpcError(
        status, grpc.aio.Metadata(), grpc.aio.Metadata((CODE_KEY, "FROM_LATER")), details="why"
    )

    assert isinstance(error_of(bare), FedFleetError)
    assert (error_of(foreign).code, error_of(foreign).message) == ("INTERNAL", "why")
