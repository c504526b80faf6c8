"""Takes versions that no run here made: receives, checks, signs, and enters them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace

from fedfleet.errors import Conflict, LimitExceeded, TransferInvalid
from fedfleet.store.protocols import BlobWriter, RunState, VersionRecord, check_alias
from fedfleet.training.card_schema import schema_of_card
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.limits import CHUNK_BYTES, STALL_S
from fedfleet.wire.offers import Offer, check_model, check_weights, offer_from_message
from fedfleet_coordinator.receiving import next_message
from fedfleet_coordinator.surroundings import Surroundings

# One holds about three times its version's bytes in memory while they are checked.
MAX_IMPORTS = 2
# How often a number is taken again that a run's commit has taken meanwhile.
TRIES = 8


class Importing:
    """Bounded: a few at once, each of at most ``MAX_IMPORT_BYTES``.

    Args:
        stall_s: how long to wait for the next piece.
    """

    def __init__(self, around: Surroundings, stall_s: float = STALL_S) -> None:
        self._around = around
        self._store, self._executors = around.store, around.executors
        self._stall_s = stall_s
        self._free = set(range(MAX_IMPORTS))
        self._coming: list[str] = []  # digests of what is being imported

    async def take(self, requests: AsyncIterator[pb.ImportVersionRequest]) -> VersionRecord:
        """Receive one version and enter it.

        Raises:
            TransferInvalid, LimitExceeded, InvalidInput, RecipeInvalid, UnknownModel,
            ChecksumMismatch, SchemaMismatch: what came is no version that can be used here.
            Conflict: a run is making versions of this model.
        """
        with self._place() as place:
            first = await next_message(requests, self._stall_s)
            if first is None or first.WhichOneof("part") != "header":
                raise TransferInvalid("the first message of an import must be its header")
            # Parsing up to 2 MiB of JSON keeps a core busy for a moment.
            header = first.header
            offer = await self._executors.compute_aside(lambda: offer_from_message(header))
            for alias in offer.aliases:
                check_alias(alias)
            await self._executors.io(lambda: self._check_idle(offer.model))
            was_there = await self._executors.io(lambda: self._is_there(offer.digest))
            async with self._forgetting(offer.digest, was_there=was_there):
                await self._receive(offer, requests, place)
                return await self._enter(offer, was_there=was_there)

    @contextmanager
    def _place(self) -> Iterator[int]:
        if not self._free:
            raise LimitExceeded(f"{MAX_IMPORTS} versions are being imported; try again later")
        place = min(self._free)
        self._free.remove(place)
        try:
            yield place
        finally:
            self._free.add(place)

    def _is_there(self, digest: str) -> bool:
        """Whether bytes are there that no import has just brought."""
        return digest not in self._coming and self._store.blobs.size(digest) is not None

    @asynccontextmanager
    async def _forgetting(self, digest: str, *, was_there: bool) -> AsyncIterator[None]:
        """Let go of the bytes when the body fails, however it does: no version names them."""
        self._coming.append(digest)
        is_done = False
        try:
            yield
            is_done = True
        finally:
            self._coming.remove(digest)
            # Whoever else is at work on the same bytes lets go of them, or enters them: another
            # import, or the deed that goes on when its caller has gone away.
            if not is_done and not was_there and digest not in self._coming:
                await self._executors.io(lambda: self._forget(digest))

    async def _receive(
        self, offer: Offer, requests: AsyncIterator[pb.ImportVersionRequest], place: int
    ) -> None:
        """Store the bytes; those that an import which was cut has left are not stored twice."""
        # A key holds what was begun last, and whoever takes it ends that: one for each place.
        key = f"import {place}"
        blobs = self._store.blobs
        writer = await self._executors.io(lambda: blobs.writer(offer.digest, offer.size_bytes, key))
        try:
            came = 0
            while came < offer.size_bytes:
                data = _chunk(await next_message(requests, self._stall_s), came, offer.size_bytes)
                await self._executors.io(lambda data=data, at=came: _keep(writer, data, at))  # type: ignore[misc]
                came += len(data)
            if await next_message(requests, self._stall_s) is not None:
                raise TransferInvalid(f"more than the announced {offer.size_bytes} bytes")
            await self._executors.io(writer.commit)
        finally:
            await self._executors.io(writer.close)

    async def _enter(self, offer: Offer, *, was_there: bool) -> VersionRecord:
        async def work() -> VersionRecord:
            async with self._forgetting(offer.digest, was_there=was_there):
                await self._check(offer)
                return await self._executors.io(lambda: self._add(offer))

        return await self._around.trail.act(
            "import_version",
            f"model/{offer.model}",
            work,
            digest=offer.digest,
            size_bytes=offer.size_bytes,
            aliases=list(offer.aliases),
        )

    async def _check(self, offer: Offer) -> None:
        """Hold the schema to the card, and the bytes to the schema."""
        # Where versions are made: a network is built with torch's global generator, which is one
        # for all threads. The weights take longest, and are not to hold up a round.
        built = await self._executors.compute(lambda: schema_of_card(offer.card))
        check_model(built, offer.schema)
        blobs = self._store.blobs
        await self._executors.compute_aside(
            lambda: check_weights(offer.schema, blobs.read(offer.digest))
        )

    def _check_idle(self, model: str) -> None:
        """Raises Conflict: a run would find its next version's number taken."""
        for run in self._store.journal.runs():
            if run.model == model and run.state is RunState.RUNNING:
                raise Conflict(
                    f"run {run.run_id} is making versions of model {model!r}: import under "
                    "another name, or when it has ended"
                )

    def _add(self, offer: Offer) -> VersionRecord:
        registry = self._store.registry
        record = VersionRecord(
            model=offer.model,
            number=0,
            digest=offer.digest,
            size_bytes=offer.size_bytes,
            schema=offer.schema,
            run_id="",
            round=0,
            parent=None,
            created_at_s=time.time(),
            card=offer.card.to_json(),
            metrics=offer.metrics,
            lineage={"imported": {}, **offer.lineage},
        )
        for attempt in range(TRIES):
            self._check_idle(offer.model)
            numbered = replace(record, number=1 + registry.newest_number(offer.model))
            sign = self._around.sign
            try:
                return registry.add(sign(numbered) if sign else numbered, offer.aliases)
            except Conflict:
                if attempt == TRIES - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _forget(self, digest: str) -> None:
        with suppress(Conflict):  # another version has the very same bytes by now
            self._store.blobs.delete(digest)


def _chunk(request: pb.ImportVersionRequest | None, came: int, size_bytes: int) -> bytes:
    if request is None:
        raise TransferInvalid(f"the import ended at byte {came} of {size_bytes}")
    data = request.chunk
    if not 0 < len(data) <= CHUNK_BYTES:
        raise TransferInvalid(f"a piece of {len(data)} bytes: must be 1 to {CHUNK_BYTES}")
    if came + len(data) > size_bytes:
        raise TransferInvalid(f"more than the announced {size_bytes} bytes")
    return data


def _keep(writer: BlobWriter, data: bytes, at: int) -> None:
    """Write what is not held already."""
    missing = data[max(0, writer.offset_bytes - at) :]
    if missing:
        writer.write(missing)
