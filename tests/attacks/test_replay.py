"""What was sent once, sent again: as bytes of the wire, as messages, by others, at once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from attacks.siege import BOTH_COUNT, DELTA, HONEST, MALLORY, Siege, besieged, refused
from harness import PATIENCE_S, ScriptedWorker, state_of_version

from fedfleet.rpc.channel import open_channel
from fedfleet.rpc.status import error_of
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1.federation_service_pb2_grpc import FederationServiceStub
from fedfleet.wire.updates import EncodedUpdate


def recorded(update: EncodedUpdate) -> list[bytes]:
    """Every message of a whole upload, as it is on the wire inside TLS."""
    worker = ScriptedWorker.__new__(ScriptedWorker)
    pieces = ScriptedWorker._pieces(worker, update)
    messages = [
        pb.UploadRequest(header=update.header),
        *(pb.UploadRequest(chunk=piece) for piece in pieces),
    ]
    return [message.SerializeToString() for message in messages]


async def replayed(upload: Any, recording: list[bytes]) -> pb.Receipt:
    """Send a recording as it is, without waiting for what the coordinator says."""

    async def requests() -> AsyncIterator[pb.UploadRequest]:
        for data in recording:
            yield pb.UploadRequest.FromString(data)

    async for response in upload(requests(), timeout=PATIENCE_S):
        if response.WhichOneof("message") == "receipt":
            receipt: pb.Receipt = response.receipt
            return receipt
    raise AssertionError("no receipt")


@pytest.mark.parametrize("when", ["in the round", "after the round"])
async def test_upload_that_is_sent_again_counts_once(when: str, tmp_path: Path) -> None:
    async with besieged(tmp_path, BOTH_COUNT) as siege:
        mine = siege.update(siege.given, MALLORY, 3.0)
        recording = recorded(mine)
        assert not (await replayed(siege.insider.federation.Upload, recording)).duplicate
        if when == "after the round":
            await siege.upload_and_finish()

        for _ in range(3):
            assert (await replayed(siege.insider.federation.Upload, recording)).duplicate
        receipts = await answered(siege, mine, mine)
        assert receipts
        assert all(receipt.duplicate for receipt in receipts.values())

        if when == "in the round":
            await siege.upload_and_finish()
        await counted_once(siege, 3.0)


async def counted_once(siege: Siege, delta: float) -> None:
    """The version is the mean of the honest update and of one of the attacker's."""
    (shown,) = (await siege.running.show(siege.run_id)).rounds
    assert (shown.updates, shown.weight) == (2, 20.0)
    state = state_of_version(siege.running.store, "tiny")
    mean = (DELTA + delta) / 2
    np.testing.assert_allclose(state.trainable - siege.initial.trainable, mean, rtol=1e-6)


async def test_upload_of_somebody_else_is_not_replayed_over_an_own_connection(
    tmp_path: Path,
) -> None:
    async with besieged(tmp_path) as siege:
        recording = recorded(siege.update(siege.asked, HONEST, DELTA))

        for _ in range(2):
            await refused("NOT_ALLOWED", replayed(siege.insider.federation.Upload, recording))

        await siege.holds()
        await refused("NOT_ALLOWED", replayed(siege.insider.federation.Upload, recording))


async def test_upload_of_a_run_that_is_over_does_not_count_in_the_next(tmp_path: Path) -> None:
    async with besieged(tmp_path, BOTH_COUNT) as siege:
        mine = siege.update(siege.given, MALLORY, 3.0)
        await siege.mallory.upload(mine)
        await siege.upload_and_finish()

        run_id = await siege.running.submit(siege.recipe)
        given = await siege.mallory.assignment()
        asked = await siege.honest.assignment()
        # As it was: the journal knows it, and has counted it already.
        assert (await siege.mallory.upload(mine)).duplicate
        # Under the new run's name, and then under the new assignment's, too.
        for change in (
            {"run_id": run_id},
            {"assignment_id": given.assignment_id},
        ):
            changed = EncodedUpdate(
                pb.UpdateHeader.FromString(mine.header.SerializeToString()), b""
            )
            for name, value in change.items():
                setattr(changed.header, name, value)
            await refused("ASSIGNMENT_CLOSED", siege.mallory.upload(changed))
        assert siege.running.store.journal.updates(run_id, 1) == []

        await siege.mallory.upload(siege.update(given, MALLORY, 0.5))
        await siege.honest.upload(siege.update(asked, HONEST, 0.5))
        assert (await siege.running.finished(run_id)).code == ""


async def test_different_uploads_for_one_assignment_at_once_count_once(tmp_path: Path) -> None:
    async with besieged(tmp_path, BOTH_COUNT) as siege:
        updates = [siege.update(siege.given, MALLORY, float(delta)) for delta in range(2, 6)]
        receipts = await answered(siege, *updates)

        journalled = siege.running.store.journal.updates(siege.run_id, 1)
        (record,) = [one for one in journalled if one.worker_id == MALLORY]
        counted = [one.header.payload_digest for one in updates].index(record.digest)
        assert list(receipts) == [counted]
        assert not receipts[counted].duplicate
        # The others are not taken afterwards either.
        for update in updates[:counted] + updates[counted + 1 :]:
            await refused("ASSIGNMENT_CLOSED", siege.mallory.upload(update))
        await siege.upload_and_finish()
        await counted_once(siege, float(2 + counted))


async def answered(siege: Siege, *updates: EncodedUpdate) -> dict[int, pb.Receipt]:
    """Upload all at once; the receipts by the number of their update. The others are told."""
    upload = siege.insider.federation.Upload
    answers = await asyncio.gather(
        *(replayed(upload, recorded(update)) for update in updates), return_exceptions=True
    )
    receipts = {n: one for n, one in enumerate(answers) if isinstance(one, pb.Receipt)}
    told = [error_of(one).code for one in answers if isinstance(one, grpc.RpcError)]
    assert told == ["ASSIGNMENT_CLOSED"] * (len(updates) - len(receipts))
    return receipts


# The bytes of a connection, TLS and all


class Tap:
    """Relays one connection and keeps what the caller sent."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.sent = b""
        self.address = ""

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up, down = await asyncio.open_connection("127.0.0.1", self._port)

        async def move(source: asyncio.StreamReader, to: asyncio.StreamWriter, keep: bool) -> None:
            try:
                while data := await source.read(1 << 16):
                    if keep:
                        self.sent += data
                    to.write(data)
                    await to.drain()
            except ConnectionError:
                pass
            finally:
                to.close()

        await asyncio.gather(move(reader, down, True), move(up, writer, False))


@asynccontextmanager
async def tapped(port: int) -> AsyncIterator[Tap]:
    tap = Tap(port)
    tasks: set[asyncio.Task[None]] = set()

    def begin(*ends: Any) -> None:
        tasks.add(asyncio.ensure_future(tap.relay(*ends)))

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    tap.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield tap
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_recorded_connection_opens_nothing_when_it_is_played_again(tmp_path: Path) -> None:
    async with besieged(tmp_path, BOTH_COUNT) as siege:
        port, mallory = siege.running.coordinator.port, siege.insider.credentials
        update = siege.update(siege.given, MALLORY, 3.0)
        async with tapped(port) as tap, open_channel(tap.address, credentials=mallory) as channel:
            call = FederationServiceStub(channel).Upload
            assert not (await replayed(call, recorded(update))).duplicate
        assert len(tap.sent) > 1000
        # Nobody on the way sees what is sent: not the header, not the payload.
        for text in (MALLORY.encode(), siege.run_id.encode(), update.payload[:8]):
            assert text not in tap.sent
        calls = list(siege.log)

        answer = await asyncio.to_thread(played, port, tap.sent)

        assert b"fedfleet" not in answer
        assert not [line for line in siege.log[len(calls) :] if "update" in line]
        journalled = siege.running.store.journal.updates(siege.run_id, 1)
        assert [one.worker_id for one in journalled] == [MALLORY]
        await siege.upload_and_finish()
        await counted_once(siege, 3.0)


def played(port: int, data: bytes) -> bytes:
    """Send bytes that were recorded; what comes back until the other side closes."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as caller:
        try:
            caller.sendall(data)
            while piece := caller.recv(1 << 16):
                answer += piece
        except ConnectionError:
            pass
    return answer
