from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from contract.store.builders import a_certificate, a_key, a_token
from contract.store.places import PLACES, Place
from contract.store.plain_access import PlainAccess
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from fedfleet.errors import AlreadyExists, FedFleetError, NotAllowed, NotFound
from fedfleet.store.protocols import Store


def test_what_is_added_is_kept_as_it_is(place: Place) -> None:
    token = a_token(name="gr\u00fc\u00dfe / \u0000'; --", created_at_s=1.1, expires_at_s=1e308)
    certificate = a_certificate("0", issued_at_s=-1.5, revoked=True)
    key = a_key(scopes=("predict", "a,b", ""), expires_at_s=0.1 + 0.2)
    with place.open() as store:
        store.access.add_token(token)
        store.access.add_certificate(certificate)
        store.access.add_key(key)
        store.access.add_key(a_key("none", scopes=()))

    with place.open() as store:
        assert (store.access.token("t1"), store.access.tokens()) == (token, [token])
        assert (store.access.certificate("0"), store.access.certificates()) == (
            certificate,
            [certificate],
        )
        assert (store.access.key("k1"), store.access.key("none").scopes) == (key, ())


def test_what_is_not_there_is_named(store: Store) -> None:
    for call in (store.access.token, store.access.delete_token, store.access.key):
        with pytest.raises(NotFound, match="nothing"):
            call("nothing")
    with pytest.raises(NotFound, match="nothing"):
        store.access.certificate("nothing")
    with pytest.raises(NotFound, match="nothing"):
        store.access.delete_key("nothing")
    assert store.access.revoke("worker", "nothing") == []


def test_a_token_is_used_once_by_one_of_many(store: Store, place: Place) -> None:
    store.access.add_token(a_token())

    def use(serial: str) -> bool:
        with place.open() as other:
            try:
                other.access.use_token("t1", a_certificate(serial))
            except NotFound:
                return False
            return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(use, "01234567"))

    assert won.count(True) == 1
    assert [c.serial for c in store.access.certificates()] == [str(won.index(True))]


def test_a_token_whose_certificate_cannot_be_added_stays(store: Store) -> None:
    store.access.add_certificate(a_certificate("5f"))
    store.access.add_token(a_token())

    with pytest.raises(AlreadyExists, match="5f"):
        store.access.use_token("t1", a_certificate("5f"))

    assert store.access.tokens() == [a_token()]


def test_revoke_reaches_all_of_a_name_in_its_role_and_nothing_else(store: Store) -> None:
    access = store.access
    for serial, changes in (
        ("1", {}),
        ("2", {"expires_at_s": 0.5}),
        ("3", {"role": "operator"}),
        ("4", {"name": "pi-77"}),
    ):
        access.add_certificate(a_certificate(serial, **changes))
    access.add_token(a_token("a", name="pi-7"))
    access.add_token(a_token("b", name="pi-7", role="operator"))

    first, second = access.revoke("worker", "pi-7"), access.revoke("worker", "pi-7")

    assert first == [
        a_certificate("1", revoked=True),
        a_certificate("2", expires_at_s=0.5, revoked=True),
    ]
    assert second == []
    assert [c.serial for c in access.certificates() if c.revoked] == ["1", "2"]
    assert [t.token_id for t in access.tokens()] == ["b"]


def test_a_revoked_name_does_not_come_back_by_a_renewal(store: Store) -> None:
    store.access.add_certificate(a_certificate("1"))
    store.access.add_certificate(a_certificate("2"), renews="1")
    store.access.revoke("worker", "pi-7")

    with pytest.raises(NotAllowed, match="revoked"):
        store.access.add_certificate(a_certificate("3"), renews="2")
    with pytest.raises(NotFound, match="unknown"):
        store.access.add_certificate(a_certificate("3"), renews="unknown")
    store.access.add_certificate(a_certificate("3"))  # by a new token, say

    assert [(c.serial, c.revoked) for c in store.access.certificates()] == [
        ("1", True),
        ("2", True),
        ("3", False),
    ]


def test_certificates_are_listed_and_forgotten_by_their_end(store: Store) -> None:
    for serial, end_s in (("1", 30.0), ("2", 10.0), ("3", 20.0)):
        store.access.add_certificate(a_certificate(serial, expires_at_s=end_s))

    assert [c.serial for c in store.access.certificates(after_s=10.0)] == ["1", "3"]
    store.access.forget_certificates(20.0)

    assert [c.serial for c in store.access.certificates()] == ["1", "3"]
    with pytest.raises(NotFound):
        store.access.certificate("2")
    assert store.access.revoke("worker", "pi-7") == [
        a_certificate("1", expires_at_s=30.0, revoked=True),
        a_certificate("3", expires_at_s=20.0, revoked=True),
    ]


def test_revoked_certificates_are_never_forgotten(store: Store) -> None:
    store.access.add_certificate(a_certificate("1", expires_at_s=10.0))
    store.access.add_certificate(a_certificate("2", expires_at_s=10.0, name="pi-8"))
    store.access.revoke("worker", "pi-7")

    store.access.forget_certificates(float("inf"))

    revoked = a_certificate("1", expires_at_s=10.0, revoked=True)
    assert store.access.certificates() == [revoked]
    assert store.access.certificate("1") == revoked


IDS = st.sampled_from(["1", "2", "3"])
NAMES = st.sampled_from(["pi-1", "pi-2"])
ROLES = st.sampled_from(["worker", "operator"])
TIMES = st.sampled_from([10.0, 20.0, 30.0])


class Histories(RuleBasedStateMachine):
    """Calls a store and the plain model of it, compares both."""

    make_place: Callable[[], Place]

    def __init__(self) -> None:
        super().__init__()
        self.store = self.make_place().open()
        self.plain = PlainAccess()

    def teardown(self) -> None:
        self.store.close()

    def both(self, call: Callable[[Any], Any]) -> None:
        assert outcome(call, self.store.access) == outcome(call, self.plain)

    @rule(token_id=IDS, role=ROLES, name=NAMES)
    def add_token(self, token_id: str, role: str, name: str) -> None:
        token = a_token(token_id, role=role, name=name)
        self.both(lambda a: a.add_token(token))

    @rule(token_id=IDS)
    def delete_token(self, token_id: str) -> None:
        self.both(lambda a: a.delete_token(token_id))

    @rule(token_id=IDS, serial=IDS, role=ROLES, name=NAMES, end_s=TIMES)
    def use_token(self, token_id: str, serial: str, role: str, name: str, end_s: float) -> None:
        certificate = a_certificate(serial, role=role, name=name, expires_at_s=end_s)
        self.both(lambda a: a.use_token(token_id, certificate))

    @rule(serial=IDS, renews=st.sampled_from(["", "1", "2"]), name=NAMES, end_s=TIMES)
    def add_certificate(self, serial: str, renews: str, name: str, end_s: float) -> None:
        certificate = a_certificate(serial, name=name, expires_at_s=end_s)
        self.both(lambda a: a.add_certificate(certificate, renews=renews))

    @rule(role=ROLES, name=NAMES)
    def revoke(self, role: str, name: str) -> None:
        self.both(lambda a: a.revoke(role, name))

    @rule(before_s=TIMES)
    def forget_certificates(self, before_s: float) -> None:
        self.both(lambda a: a.forget_certificates(before_s))

    @rule(key_id=IDS, name=NAMES)
    def add_key(self, key_id: str, name: str) -> None:
        self.both(lambda a: a.add_key(a_key(key_id, name=name)))

    @rule(key_id=IDS)
    def delete_key(self, key_id: str) -> None:
        self.both(lambda a: a.delete_key(key_id))

    @invariant()
    def tells_the_same(self) -> None:
        self.both(lambda a: (a.tokens(), a.certificates(), a.keys()))
        self.both(lambda a: [a.certificates(after_s=time_s) for time_s in (10.0, 20.0)])
        for each in ("1", "2", "3"):
            self.both(lambda a, i=each: a.token(i))
            self.both(lambda a, i=each: a.certificate(i))
            self.both(lambda a, i=each: a.key(i))


def outcome(call: Callable[[Any], Any], access: Any) -> Any:
    try:
        return call(access)
    except FedFleetError as error:
        return error.code


@pytest.mark.parametrize("kind", sorted(PLACES))
def test_access_answers_as_the_plain_model(kind: str, tmp_path: Path) -> None:
    number = count()

    def make_place() -> Place:
        """Another one each time: what is revoked cannot be cleared away."""
        folder = tmp_path / str(next(number))
        folder.mkdir()
        return PLACES[kind](folder)

    machine = type("Machine", (Histories,), {"make_place": staticmethod(make_place)})

    run_state_machine_as_test(
        machine, settings=settings(max_examples=30, stateful_step_count=30, deadline=None)
    )
