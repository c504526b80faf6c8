from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedfleet.errors import NotFound, StoreUnavailable
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import certificate_request, new_key
from fedfleet.identity.names import Role
from fedfleet.rpc.gate import Gate
from fedfleet.rpc.supervisor import Supervisor
from fedfleet.store.access import CertificateRecord, TokenRecord
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet_coordinator.audit_trail import Trail
from fedfleet_coordinator.executors import Executors
from fedfleet_coordinator.issuing import Issuing, Terms
from fedfleet_coordinator.steady_clock import SteadyClock
from fedfleet_coordinator.upkeep import STEADY_S, Upkeep

DAY_S = 86400.0
GRACE_S = 30 * DAY_S


class Bench:
    """What looks after the certificates of a real store, with clocks of the test's own.

    Args:
        ahead_s: of the time of day, at the start.
    """

    def __init__(self, folder: Path, store: Store, ahead_s: float = 0.0) -> None:
        self.store, self.gate, self.executors = store, Gate(), Executors()
        self.wall_s, self.count_s = time.time() + ahead_s, 0.0
        self.authority = Authority.open(folder / "ca")
        self.supervisor = Supervisor()
        trail = Trail(store.audit, self.executors, self.supervisor)
        self.upkeep = Upkeep(
            self.authority,
            store.access,
            self.executors,
            trail,
            self.gate,
            GRACE_S,
            SteadyClock(lambda: self.wall_s, lambda: self.count_s),
        )
        terms = Terms(DAY_S, GRACE_S)
        self.issuing = Issuing(
            self.authority, store.access, self.executors, trail, self.gate, terms
        )

    def pass_by(self, seconds: float, set_by_s: float = 0.0) -> None:
        self.count_s += seconds
        self.wall_s += seconds + set_by_s

    def add(self, name: str, expires_at_s: float) -> str:
        """A certificate's record; its serial."""
        key = certificate_request(new_key())
        serial = self.authority.issue(key, Role.WORKER, name, time.time(), DAY_S).identity.serial
        record = CertificateRecord(
            serial=serial, role="worker", name=name, issued_at_s=0.0, expires_at_s=expires_at_s
        )
        self.store.access.add_certificate(record)
        return serial

    def add_token(self, name: str, expires_at_s: float) -> None:
        token = TokenRecord(
            token_id=name,
            secret_hash="0" * 64,
            role="worker",
            name=name,
            created_at_s=0.0,
            expires_at_s=expires_at_s,
        )
        self.store.access.add_token(token)

    def known(self) -> set[str]:
        """Names of workers of which there is a certificate."""
        return {c.name for c in self.store.access.certificates() if c.role == "worker"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path}") as store:
        yield store


async def test_start_with_a_clock_far_ahead_forgets_nothing(tmp_path: Path, store: Store) -> None:
    usual = Bench(tmp_path, store)
    now_s = usual.wall_s
    usual.add("good", now_s + DAY_S)
    serial = usual.add("shut-out", now_s + DAY_S)
    usual.add_token("new", now_s + 3600.0)
    await usual.issuing.revoke(Role.WORKER, "shut-out")

    ahead = Bench(tmp_path, store, ahead_s=60 * DAY_S)
    await ahead.upkeep.begin()
    ahead.pass_by(3600.0)
    await ahead.upkeep.look()

    assert ahead.gate.is_revoked(serial)
    assert ahead.known() == {"good", "shut-out"}
    assert [token.name for token in store.access.tokens()] == ["new"]
    # And when the clock is right again.
    again = Bench(tmp_path, store)
    await again.upkeep.begin()
    assert again.gate.is_revoked(serial)


async def test_what_has_ended_is_forgotten_after_a_steady_day(tmp_path: Path, store: Store) -> None:
    bench = Bench(tmp_path, store)
    now_s = bench.wall_s
    bench.add("old", now_s - GRACE_S - 1.0)
    serial = bench.add("shut-out", now_s - GRACE_S - 1.0)
    bench.add("renewable", now_s - 1.0)
    bench.add_token("over", now_s - 1.0)
    bench.add_token("new", now_s + 10 * DAY_S)
    await bench.issuing.revoke(Role.WORKER, "shut-out")
    await bench.upkeep.begin()

    bench.pass_by(STEADY_S - 1.0)
    await bench.upkeep.look()
    assert bench.known() == {"old", "shut-out", "renewable"}
    bench.pass_by(STEADY_S - 1.0, set_by_s=3600.0)
    await bench.upkeep.look()
    assert bench.known() == {"old", "shut-out", "renewable"}
    bench.pass_by(STEADY_S)
    await bench.upkeep.look()

    assert bench.known() == {"shut-out", "renewable"}
    assert [token.name for token in store.access.tokens()] == ["new"]
    assert store.access.certificate(serial).revoked


async def test_local_operators_certificate_is_in_the_audit_log(
    tmp_path: Path, store: Store
) -> None:
    bench = Bench(tmp_path, store)
    await bench.upkeep.begin()
    await bench.upkeep.look()

    (deed,) = store.audit.records()
    (record,) = store.access.certificates()
    assert (deed.actor, deed.action, deed.object) == ("coordinator", "issue", "operator/local")
    assert deed.fields == {"serial": record.serial}


class Mute:
    """A store's access that does as it is told, but whose answer is lost."""

    def __init__(self, store: Store) -> None:
        self._access = store.access

    def __getattr__(self, name: str) -> object:
        return getattr(self._access, name)

    def revoke(self, role: str, name: str) -> list[CertificateRecord]:
        self._access.revoke(role, name)
        raise StoreUnavailable("the answer was lost")


async def test_revocation_whose_answer_was_lost_reaches_the_gate(
    tmp_path: Path, store: Store
) -> None:
    bench = Bench(tmp_path, store)
    serials = {bench.add("pi-7", bench.wall_s + DAY_S) for _ in range(2)}
    other = bench.add("pi-8", bench.wall_s + DAY_S)
    bench.issuing._access = Mute(store)

    with pytest.raises(StoreUnavailable):
        await bench.issuing.revoke(Role.WORKER, "pi-7")

    assert all(map(bench.gate.is_revoked, serials))
    bench.issuing._access = store.access
    assert await bench.issuing.revoke(Role.WORKER, "pi-7") == 2
    assert not bench.gate.is_revoked(other)


async def test_upkeep_tells_the_gate_what_it_was_not_told(tmp_path: Path, store: Store) -> None:
    bench = Bench(tmp_path, store)
    await bench.upkeep.begin()
    serial = bench.add("pi-7", bench.wall_s + DAY_S)
    store.access.revoke("worker", "pi-7")
    assert not bench.gate.is_revoked(serial)

    await bench.upkeep.look()

    assert bench.gate.is_revoked(serial)


async def test_name_that_nobody_has_is_not_revoked(tmp_path: Path, store: Store) -> None:
    bench = Bench(tmp_path, store)
    bench.add_token("pi-9", bench.wall_s + DAY_S)

    with pytest.raises(NotFound, match="worker pi-7 has no certificates and no tokens"):
        await bench.issuing.revoke(Role.WORKER, "pi-7")
    with pytest.raises(NotFound):
        await bench.issuing.revoke(Role.OPERATOR, "pi-9")

    assert await bench.issuing.revoke(Role.WORKER, "pi-9") == 0
    assert store.access.tokens() == []
