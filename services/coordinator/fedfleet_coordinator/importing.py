"""Takes versions that no run here made: receives, checks, signs, and enters them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from fedfleet.errors import (
    Conflict,
    FedFleetError,
    InvalidInput,
    LimitExceeded,
    TransferInvalid,
)
from fedfleet.store.alias_history import LATEST, PREVIOUS
from fedfleet.store.protocols import BlobWriter, RunState, Store, VersionRecord, check_alias
from fedfleet.store.version_pages import each_version
from fedfleet.training.card_schema import schema_of_card
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.limits import CHUNK_BYTES, STALL_S
from fedfleet.wire.offers import Offer, check_model, check_weights, offer_from_message
from fedfleet_coordinator.receiving import next_message
from fedfleet_coordinator.surroundings import Surroundings

IMPORT = "import_version"
MOVE_BY_THEMSELVES = (LATEST, PREVIOUS)
# One holds about three times its version's bytes in memory while they are checked.
MAX_IMPORTS = 2
# How often a number is taken again that a run's commit has taken meanwhile.
TRIES = 8
# Of the audit log's records, among which an import is looked for that a killed coordinator began:
# few were at work, and hardly anything is recorded while none is.
RECENT = 1000


@dataclass
class _Taking:
    """How far an import has come.

    Args:
        model: as the caller names it.
        fields: what the audit log tells of it.
        is_recorded: the deed is, so that its refusal will be.
    """

    model: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    is_recorded: bool = False


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
        self._holders = count()

    async def take(self, requests: AsyncIterator[pb.ImportVersionRequest]) -> VersionRecord:
        """Receive one version and enter it; what is refused is in the audit log, too.

        Raises:
            TransferInvalid, LimitExceeded, InvalidInput, RecipeInvalid, UnknownModel,
            ChecksumMismatch, SchemaMismatch: what came is no version that can be used here.
            Conflict: a run is making versions of this model.
        """
        taking = _Taking()
        try:
            return await self._take(requests, taking)
        except FedFleetError as error:
            if not taking.is_recorded:
                await self._around.trail.refuse(
                    IMPORT, f"model/{taking.model}", error, **taking.fields
                )
            raise

    async def _take(
        self, requests: AsyncIterator[pb.ImportVersionRequest], taking: _Taking
    ) -> VersionRecord:
        with self._place() as place:
            first = await next_message(requests, self._stall_s)
            if first is None or first.WhichOneof("part") != "header":
                raise TransferInvalid("the first message of an import must be its header")
            # Parsing up to 2 MiB of JSON keeps a core busy for a moment.
            header = first.header
            taking.model = header.model
            offer = await self._executors.compute_aside(lambda: offer_from_message(header))
            taking.fields = _fields(offer)
            for alias in offer.aliases:
                _check_alias(alias)
            await self._executors.io(lambda: self._check_idle(offer.model))
            async with self._holding(offer.digest) as was_there:
                writer = await self._receive(offer, requests, place)
                taking.is_recorded = True
                return await self._enter(offer, writer, was_there=was_there)

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

    @asynccontextmanager
    async def _holding(self, digest: str, *, was_there: bool = False) -> AsyncIterator[bool]:
        """Keep the bytes from being deleted, and let go of them when the body fails, however it
        does: no version names them.

        Args:
            was_there: before this import; then they stay in any case.

        Yields:
            Whether they were there before any import that is at work.
        """
        holds, holder = self._around.holds, f"import {next(self._holders)}"
        # Held already: whoever else is at work on the same bytes enters them, or lets go of them
        # when they are no longer held. It may be the deed that goes on when its caller has gone.
        is_first = not holds.is_held(digest)
        holds.hold(holder, [digest])
        is_done = False
        try:
            await self._executors.io(lambda: holds.settle([digest]))
            if is_first and not was_there:
                was_there = await self._executors.io(lambda: self._is_there(digest))
            yield was_there
            is_done = True
        finally:
            holds.let_go(holder, [digest])
            if not is_done and not was_there:
                await self._executors.io(lambda: self._forget(digest))

    def _is_there(self, digest: str) -> bool:
        return self._store.blobs.size(digest) is not None

    async def _receive(
        self, offer: Offer, requests: AsyncIterator[pb.ImportVersionRequest], place: int
    ) -> BlobWriter:
        """Receive the bytes; those that an import which was cut has left are not written twice.

        Returns:
            What has all of them, and is to be committed.
        """
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
        except BaseException:
            await self._executors.io(writer.close)
            raise
        return writer

    async def _enter(self, offer: Offer, writer: BlobWriter, *, was_there: bool) -> VersionRecord:
        """Store the bytes and enter the version, after that is in the audit log: there the next
        coordinator finds what a killed one has stored and not entered.
        """

        async def work() -> VersionRecord:
            async with self._holding(offer.digest, was_there=was_there):
                try:
                    await self._executors.io(writer.commit)
                finally:
                    await self._executors.io(writer.close)
                await self._check(offer)
                return await self._executors.io(lambda: self._add(offer))

        return await self._around.trail.act(
            IMPORT,
            f"model/{offer.model}",
            work,
            **_fields(offer),
            was_there=was_there,
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
        # Another version may have the very same bytes by now.
        with self._around.holds.deleting(digest) as is_free, suppress(Conflict):
            if is_free:
                self._store.blobs.delete(digest)


def forget_cut_imports(store: Store) -> None:
    """Delete the bytes that a killed coordinator has stored for an import and not entered; blocks.

    Call it before anything is at work. Bytes that were there before the import stay.
    """
    head = store.audit.head()
    if head is None:
        return
    for deed in store.audit.records(max(0, head.number - RECENT), RECENT):
        if deed.action != IMPORT or deed.fields.get("was_there", True):
            continue
        digest, model = str(deed.fields.get("digest")), deed.object.removeprefix("model/")
        if store.blobs.size(digest) is None:
            continue
        if all(version.digest != digest for version in each_version(store.registry, model)):
            with suppress(Conflict):
                store.blobs.delete(digest)


def _fields(offer: Offer) -> dict[str, Any]:
    return {
        "digest": offer.digest,
        "size_bytes": offer.size_bytes,
        "aliases": list(offer.aliases),
    }


def _check_alias(alias: str) -> None:
    check_alias(alias)
    if alias in MOVE_BY_THEMSELVES:
        raise InvalidInput(f"alias {alias}: moves by itself; choose another name")


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
