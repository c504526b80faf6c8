"""The cluster's store: a Redis or Valkey server, without modules."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from types import TracebackType

from fedfleet.errors import StoreUnavailable
from fedfleet.store.lease import LASTS_S, Lease, owned
from fedfleet.store.protocols import RoundCommit, VersionRecord
from fedfleet.store.redis_access import RedisAccess
from fedfleet.store.redis_audit import RedisAudit
from fedfleet.store.redis_blobs import RedisBlobs
from fedfleet.store.redis_journal import RedisJournal
from fedfleet.store.redis_lanes import RedisServer
from fedfleet.store.redis_lease import RedisLeases
from fedfleet.store.redis_registry import RedisRegistry
from fedfleet.store.redis_rounds import commit_round
from fedfleet.store.redis_scripts import Script
from fedfleet.store.redis_settings import check_settings
from fedfleet.store.redis_url import RedisAddress

# Of the layout of keys (redis_keys.py). 2: records have a lineage, versions can be retired. 3:
# the registry's events say when.
SCHEMA_VERSION = 3

_BEGIN = Script(
    "meta",
    "schema",
    """
local found = redis.call('HGET', meta, 'schema')
if found and tonumber(found) >= tonumber(schema) then return done({found}) end
redis.call('HSET', meta, 'schema', schema)
return done({schema})
""",
    when_full=True,
)


class RedisStore:
    """Keeps the promises of ``Store`` on a server that any number of processes share.

    Raises:
        StoreUnavailable: the server is away, refuses, or holds what a newer release has written.
        StoreFull: no room.
        SettingInvalid: it could lose what it has acknowledged.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._server = RedisServer(address)
        try:
            check_settings(self._server, relaxed=address.relaxed)
            self._check_schema()
        except StoreUnavailable as error:
            self.close()
            # Whoever opens it is who can mend it; later errors go to workers too.
            raise StoreUnavailable(f"{error.message} ({address})", detail=error.detail) from None
        except BaseException:
            self.close()
            raise
        self.journal = RedisJournal(self._server)
        self.registry = RedisRegistry(self._server)
        self.blobs = RedisBlobs(self._server)
        self.access = RedisAccess(self._server)
        self.audit = RedisAudit(self._server)

    def commit_round(self, commit: RoundCommit) -> VersionRecord:
        commit_round(self._server, commit)
        return commit.version

    def own(
        self,
        holder: str = "",
        *,
        lasts_s: float = LASTS_S,
        wait_s: float | None = 0.0,
        given_up: threading.Event | None = None,
    ) -> AbstractContextManager[Lease]:
        leases = RedisLeases(self._server)
        return owned(leases, "the store's namespace", holder, lasts_s, wait_s, given_up)

    def close(self) -> None:
        self._server.close()

    def __enter__(self) -> RedisStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_schema(self) -> None:
        meta = self._server.keys.meta
        found = self._server.read(("HGET", meta, "schema"))[0]
        if found is None or int(found) < SCHEMA_VERSION:
            found = self._server.write(_BEGIN, [meta], [SCHEMA_VERSION])[0]
        if int(found) > SCHEMA_VERSION:
            raise StoreUnavailable(
                f"the store was written by a newer release (its schema is {int(found)}, this "
                f"release knows {SCHEMA_VERSION}): upgrade fedfleet or use another namespace"
            )
