"""What every store keeps and promises; ``sqlite.py`` is the embedded implementation.

A store has five faces. The journal knows what happened in runs, the registry which versions exist
and what their aliases are, the blobs hold bytes by their SHA-256; who may come in is in
``access.py``, who did what in ``audit.py``. All calls block (files, sockets): call them outside the
event loop. All calls are safe from several threads. Whatever returns has been made durable first,
but for ``BlobWriter.write``. Any call may raise StoreFull (no room) or StoreUnavailable (locked,
damaged, away, closed); then it has changed nothing, unless the store lies behind a network that
broke after the request was sent: read again what there is. A store that owned (``Store.own``) and
does not any more raises LeaseLost at every write.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Protocol

from fedfleet.errors import InvalidInput, NotFound
from fedfleet.store.access import Access
from fedfleet.store.audit import Audit
from fedfleet.store.lease import LASTS_S, Lease
from fedfleet.types import ALIAS_RULE, Schema, is_alias, is_version_number


class RunState(str, Enum):
    """Where a run is in its life; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def final(self) -> bool:
        return self in (RunState.COMPLETED, RunState.FAILED, RunState.STOPPED)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as the journal knows it.

    Args:
        model: name of the model whose versions the run makes.
        recipe: TOML as submitted.
        round: last committed round, 0 before the first.
        code, reason: why it failed or was stopped, else empty.
    """

    run_id: str
    model: str
    recipe: str
    state: RunState
    rounds: int
    created_at_s: float
    updated_at_s: float
    round: int = 0
    code: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that happened in a run. ``event_id`` is 0 until the journal has stored it.

    Ids grow over all runs and are never reused.
    """

    run_id: str
    round: int
    at_s: float
    kind: str
    fields: Mapping[str, Any]  # a JSON object
    event_id: int = 0


@dataclass(frozen=True, kw_only=True)
class UpdateRecord:
    """An accepted update: its header as JSON and where its payload lies."""

    run_id: str
    round: int
    assignment_id: str
    worker_id: str
    header: Mapping[str, Any]  # a JSON object; wire/ knows its form
    digest: str
    size_bytes: int
    accepted_at_s: float


@dataclass(frozen=True, kw_only=True)
class VersionRecord:
    """An immutable version.

    Args:
        number: counted from 1 for each model.
        digest: SHA-256 of the blob, a safetensors file.
        parent: number of the version it was made from, None for an initial one.
        card: what serving needs: architecture, options, input, classes. JSON object.
        metrics: metrics of its round. JSON object.
        signature: Ed25519 in hex over ``manifest_of``; empty where it is unsigned.
        lineage: how it came about beside run, round and parent: the recipe's digest, the algorithm,
            the widths it can be cut to, software versions; of an imported version where it came
            from. JSON object.
        retired_at_s: since when its bytes are no longer kept, None while they are. It is of the
            store and not of the version: nobody signs it.
    """

    model: str
    number: int
    digest: str
    size_bytes: int
    schema: Schema
    run_id: str
    round: int
    parent: int | None
    created_at_s: float
    card: Mapping[str, Any]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    signature: str = ""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    retired_at_s: float | None = None


def manifest_of(version: VersionRecord) -> bytes:
    """What a version's signature is over: all that its record says, as canonical JSON."""
    fields = {
        "model": version.model,
        "number": version.number,
        "digest": version.digest,
        "size_bytes": version.size_bytes,
        "schema_digest": version.schema.digest,
        "run_id": version.run_id,
        "round": version.round,
        "parent": version.parent,
        "created_at_s": float(version.created_at_s),
        "card": version.card,
        "metrics": version.metrics,
        # Absent where there is none: versions that were signed before there was one stay valid.
        **({"lineage": version.lineage} if version.lineage else {}),
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True, kw_only=True)
class AliasRecord:
    """A movable name. ``revision`` goes up by one whenever it is set, even to the same version."""

    model: str
    alias: str
    number: int
    revision: int


@dataclass(frozen=True, kw_only=True)
class RegistryEvent:
    """Something that a follower of the registry wants to know.

    Args:
        kind: ``version`` (a version was committed or added), ``alias`` (an alias was set) or
            ``retired`` (a version's bytes are kept no longer).
        at_s: when, in seconds since the epoch by the clock of who wrote it; 0 where it was written
            before that was noted. Events are told apart without it.
    """

    event_id: int
    kind: str
    model: str
    number: int
    alias: str = ""
    at_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, kw_only=True)
class RoundCommit:
    """All that one round leaves behind; ``Store.commit_round`` writes it in one transaction.

    Args:
        version: ``number`` must be 1 + the model's highest; anything else is a Conflict.
        memory_digest: blob of the algorithm's coordinator memory, or empty.
        aliases: set to the new version in the same transaction.
        entry: the journal entry of the commit.
    """

    run_id: str
    round: int
    version: VersionRecord
    memory_digest: str
    aliases: tuple[str, ...]
    entry: Entry


class BlobWriter(Protocol):
    """Receives one blob in order; what was written stays when the writer is closed early."""

    @property
    def offset_bytes(self) -> int:
        """Bytes held so far, those of an earlier writer of the same key included."""

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            TransferInvalid: more bytes than announced, or the writer is closed.
            StoreFull: no room; nothing of this call was kept.
        """

    def commit(self) -> None:
        """Check size and SHA-256, then make the blob readable and durable.

        Raises:
            TransferInvalid: bytes are missing (those that came are kept), or the writer is closed.
            ChecksumMismatch: the bytes are not those of the digest; they are dropped.
        """

    def close(self) -> None:
        """Let go of the file, keeping the bytes for a later writer; no-op after commit."""


class Blobs(Protocol):
    """Bytes by their SHA-256 in hex."""

    def put(self, data: bytes) -> str:
        """Store and return the digest; storing the same bytes twice is one blob."""

    def writer(self, digest: str, size_bytes: int, key: str) -> BlobWriter:
        """Open a writer that resumes what an earlier one with this digest and key left behind.

        The earlier one is closed, should it still be open. The writer of a blob that is stored
        already starts at its end.

        Raises:
            TransferInvalid: not a SHA-256 in lower-case hex, or the stored blob has another size.
        """

    def size(self, digest: str) -> int | None:
        """Size in bytes, or None where there is no such blob."""

    def read(self, digest: str, offset_bytes: int = 0, length: int | None = None) -> bytes:
        """The bytes from the offset on, fewer than ``length`` at the end. Raises NotFound."""

    def view(self, digest: str) -> memoryview:
        """All of the bytes, read from the disk as they are looked at where the store can do that.

        Stays whole when the blob is deleted meanwhile. Raises NotFound.
        """

    def delete(self, digest: str) -> None:
        """Remove; no-op where there is no such blob.

        Raises:
            Conflict: it is needed: by a version; or, while their run goes on, by its memory or by
                an update of a round that is not committed yet.
        """


class Journal(Protocol):
    """What happened in runs."""

    def create_run(self, run: RunRecord, entry: Entry) -> None:
        """Raises AlreadyExists."""

    def run(self, run_id: str) -> RunRecord:
        """Raises NotFound."""

    def runs(self) -> list[RunRecord]:
        """In the order in which they were created."""

    def set_run_state(
        self, run_id: str, state: RunState, entry: Entry, *, code: str = "", reason: str = ""
    ) -> RunRecord:
        """Change the state and append the entry in one transaction; a final state stays.

        The entry's time becomes the run's ``updated_at_s``.

        Raises:
            NotFound: no such run.
            Conflict: the run's state is final already.
        """

    def append(self, entry: Entry) -> Entry:
        """Store an entry and return it with its id. Raises NotFound where there is no such run."""

    def entries(self, run_id: str, *, after_id: int = 0, limit: int | None = None) -> list[Entry]:
        """In order of their ids; empty for an unknown run."""

    def accept_update(self, update: UpdateRecord, entry: Entry) -> bool:
        """Store update and entry in one transaction; False (and nothing stored) if the update's
        (run, round, assignment) is stored already with the same digest.

        The payload's blob must be stored already.

        Raises:
            NotFound: the blob or the run is not there.
            Conflict: another payload is stored for this assignment.
        """

    def updates(self, run_id: str, round: int) -> list[UpdateRecord]:
        """In order of assignment ids; empty for an unknown run."""

    def update(self, run_id: str, round: int, assignment_id: str) -> UpdateRecord | None:
        """The accepted update of an assignment, or None."""

    def find_update(self, run_id: str, rounds: range, assignment_id: str) -> UpdateRecord | None:
        """That of an assignment, where it was accepted in one of these rounds (a range of step 1).

        Takes as long however many rounds there are.
        """

    def memory_digest(self, run_id: str) -> str:
        """Blob of the algorithm's coordinator memory after the last committed round, or empty.

        Raises:
            NotFound: no such run.
        """


class Registry(Protocol):
    """Which versions exist and what their aliases are."""

    def models(self) -> list[str]:
        """Names in order."""

    def versions(
        self, model: str, before: int | None = None, limit: int | None = None
    ) -> list[VersionRecord]:
        """Newest first; empty for an unknown model. Reads no more than it returns.

        Args:
            before: only those of lower numbers, all of them where it is None.
            limit: the newest so many of those, all of them where it is None.
        """

    def newest_number(self, model: str) -> int:
        """Number of the newest version; 0 for an unknown model."""

    def version(self, model: str, number: int) -> VersionRecord:
        """Raises NotFound."""

    def aliases(self, model: str) -> dict[str, AliasRecord]:
        """By name, in order."""

    def set_alias(
        self, model: str, alias: str, number: int, expected_revision: int | None = None
    ) -> AliasRecord:
        """Point an alias at a version; an alias that does not exist yet has revision 0.

        Raises:
            InvalidInput: not a name that an alias can have.
            NotFound: no such version.
            Conflict: the alias is at another revision than expected, or the version is retired.
        """

    def add(self, version: VersionRecord, aliases: tuple[str, ...] = ()) -> VersionRecord:
        """Store a version that no run here made (an import), and announce it, in one transaction.

        Its blob must be stored already; ``aliases`` are set to it in the same transaction.

        Raises:
            Conflict: its number is not the model's next one.
            NotFound: the blob is not there.
        """

    def retire(self, model: str, number: int, at_s: float) -> VersionRecord:
        """Keep a version's record and let go of its bytes, in one transaction.

        The blob is deleted unless another record needs it (as ``Blobs.delete`` has it). A version
        that is retired already is returned as it is; should its bytes be there again, they go.

        Raises:
            NotFound: no such version.
            Conflict: an alias points at it, it is its model's newest, or the run that made it goes
                on and has committed nothing later.
        """

    def events(self, after_id: int = 0, limit: int = 1000) -> list[RegistryEvent]:
        """In order; a follower that was away asks from the last id that it saw."""


class Store(Protocol):
    """The faces, and the one step that touches two of them."""

    @property
    def journal(self) -> Journal: ...
    @property
    def registry(self) -> Registry: ...
    @property
    def blobs(self) -> Blobs: ...
    @property
    def access(self) -> Access: ...
    @property
    def audit(self) -> Audit: ...

    def commit_round(self, commit: RoundCommit) -> VersionRecord:
        """Write version, aliases, the run's round, the memory's digest and the entry, or nothing.

        The blobs of version and memory must be stored already. Round 0 is the run's initial
        version: it may be committed once, before round 1, and may be left out. The entry's time
        becomes the run's ``updated_at_s``.

        Raises:
            Conflict: the version's number is not the next one, the run's last round is not the
                one before, or the run has ended.
            NotFound: a blob or the run is not there.
        """

    def own(
        self,
        holder: str = "",
        *,
        lasts_s: float = LASTS_S,
        wait_s: float | None = 0.0,
        given_up: threading.Event | None = None,
    ) -> AbstractContextManager[Lease]:
        """Be the one writer while the body runs (``lease.py``); readers are not kept out.

        Args:
            holder: names this owner to people; empty is the process and its machine.
            lasts_s: how long the store waits for a sign of life before another may take over.
            wait_s: how long to wait for an owner that gives a sign of life; None is for ever. One
                that gives none is waited for until its lease is over.
            given_up: set by whoever does not want to wait any more.

        Raises:
            StateInUse: another process owns the store.
        """

    def close(self) -> None: ...
    def __enter__(self) -> Store: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def check_alias(alias: str) -> None:
    """Hold a store to aliases that ``resolve`` can tell from numbers.

    Raises:
        InvalidInput: a number, or not 1 to 64 characters of a-z 0-9 . _ - in either case.
    """
    if not is_alias(alias):
        raise InvalidInput(f"alias {alias[:80]!r}: must be {ALIAS_RULE}")


# Names of models that an error tells.
_MOST_NAMES = 20


def resolve(registry: Registry, model: str, name: str) -> VersionRecord:
    """The version that a number or an alias names.

    Raises:
        NotFound: neither, or no such model.
    """
    if not registry.newest_number(model):
        raise no_model(model, registry.models())
    if is_version_number(name):
        return registry.version(model, int(name))
    aliases = registry.aliases(model)
    if name not in aliases:
        raise NotFound(
            f"model {model!r} has no alias {name!r}; it has: {', '.join(aliases) or '-'}"
        )
    return registry.version(model, aliases[name].number)


def no_model(model: str, models: Sequence[str]) -> NotFound:
    """Say that a model is not there, and which are."""
    more = ", ..." if len(models) > _MOST_NAMES else ""
    known = f"there are: {', '.join(models[:_MOST_NAMES])}{more}" if models else "there is none yet"
    return NotFound(f"there is no model {model[:80]!r}; {known}")
