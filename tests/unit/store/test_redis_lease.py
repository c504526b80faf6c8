"""A server that goes away takes the store from nobody."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from contract.store.builders import a_run, an_entry
from redis_process import redis_process

from fedfleet.errors import LeaseLost
from fedfleet.store.open import open_store
from fedfleet.store.redis_lease import RedisLeases

SHORT_S = 1.0


@pytest.mark.parametrize("how", ["killed", "standing still"])
def test_an_owner_keeps_the_store_although_its_server_was_away(tmp_path: Path, how: str) -> None:
    """For longer than the lease lasts, and with somebody who waits for it."""
    given_up = threading.Event()
    with (
        redis_process(tmp_path) as server,
        open_store(server.url()) as store,
        open_store(server.url()) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        store.journal.create_run(a_run(), an_entry())
        with store.own("me", lasts_s=SHORT_S) as lease:
            waiting = pool.submit(other.own("other", wait_s=None, given_up=given_up).__enter__)
            if how == "killed":
                server.kill()
            else:
                server.pause()
            assert not lease.lost.wait(3 * SHORT_S)
            if how == "killed":
                server.start()
            else:
                server.go_on()

            store.journal.append(an_entry())
            assert not lease.lost.wait(3 * SHORT_S)
            assert not waiting.done()
            store.journal.append(an_entry())

        assert waiting.result(timeout=10).record.token == lease.record.token + 1


def test_a_lease_is_claimed_as_it_was_seen_only(tmp_path: Path) -> None:
    with (
        redis_process(tmp_path) as server,
        open_store(server.url()) as store,
        open_store(server.url()) as other,
    ):
        store.journal.create_run(a_run(), an_entry())
        with store.own("me", lasts_s=60.0):
            leases = RedisLeases(other._server)
            seen = leases.read()
            store.journal.append(an_entry())  # every write of the owner beats
            assert leases.read().beat > seen.beat
            assert not leases.is_dead(leases.read())

            taken = leases.claim(leases.read(), "other", 1.0)
            with pytest.raises(LeaseLost):
                store.journal.append(an_entry())
            assert (taken.holder, leases.read()) == ("other", taken)
        assert leases.read() == taken  # who lost it gives nothing back
        leases.release()
        assert leases.is_dead(leases.read())
