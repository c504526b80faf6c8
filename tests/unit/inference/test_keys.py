from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedfleet.errors import StoreUnavailable, Unauthenticated
from fedfleet.identity.tokens import NewSecret, new_key
from fedfleet.store.access import KeyRecord
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet_inference_api import keys
from fedfleet_inference_api.keys import KeyRing


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path}") as opened:
        yield opened


def add(store: Store, *, expires_at_s: float = 0.0) -> NewSecret:
    made = new_key()
    record = KeyRecord(
        key_id=made.id,
        secret_hash=made.secret_hash,
        name="camera",
        scopes=("predict",),
        created_at_s=1.0,
        expires_at_s=expires_at_s,
    )
    store.access.add_key(record)
    return made


class Desk:
    """A ring of keys whose clocks the test moves."""

    def __init__(self, store: Store) -> None:
        self.now_s = 1000.0
        self.asked: list[str] = []
        self._access = store.access
        self.ring = KeyRing(self, clock=lambda: self.now_s, now=lambda: self.now_s)

    def key(self, key_id: str) -> KeyRecord:
        self.asked.append(key_id)
        return self._access.key(key_id)

    async def refused(self, text: str) -> str:
        with pytest.raises(Unauthenticated) as caught:
            await self.ring.check(text)
        return caught.value.message


async def test_key_is_known_by_its_secret(store):
    made, other = add(store), add(store)
    desk = Desk(store)

    record = await desk.ring.check(made.text)
    wrong = await desk.refused(f"flk_{made.id}_{other.text.rpartition('_')[2]}")
    unknown = await desk.refused(new_key().text)

    assert (record.key_id, record.scopes) == (made.id, ("predict",))
    assert wrong == unknown  # which of both is not told


@pytest.mark.parametrize("text", ["", "flk_", "flk_x_y", "Bearer", "flk_" + "0" * 10_000, "\xff"])
async def test_what_is_no_key_is_refused_without_a_question(store, text):
    desk = Desk(store)

    await desk.refused(text)

    assert desk.asked == []


async def test_revoked_key_is_good_for_no_more_than_a_second(store):
    made = add(store)
    desk = Desk(store)
    await desk.ring.check(made.text)
    store.access.delete_key(made.id)

    desk.now_s += 0.999
    await desk.ring.check(made.text)
    desk.now_s += 0.001
    await desk.refused(made.text)

    assert desk.asked == [made.id] * 2


async def test_key_ends_at_its_time_also_while_it_is_remembered(store):
    made = add(store, expires_at_s=1000.5)
    desk = Desk(store)
    await desk.ring.check(made.text)

    desk.now_s += 0.5

    assert "has ended" in await desk.refused(made.text)


async def test_unknown_keys_are_remembered_too_and_memory_is_bounded(store, monkeypatch):
    monkeypatch.setattr(keys, "MOST_REMEMBERED", 10)
    desk = Desk(store)
    strangers = [new_key() for _ in range(50)]
    for stranger in strangers:
        await desk.refused(stranger.text)
        await desk.refused(stranger.text)

    assert desk.asked == [stranger.id for stranger in strangers]
    assert len(desk.ring._answers) == 10


async def test_store_that_is_away_lets_nobody_in(store):
    made = add(store)
    desk = Desk(store)
    await desk.ring.check(made.text)
    store.close()

    await desk.ring.check(made.text)
    desk.now_s += 1
    with pytest.raises(StoreUnavailable):
        await desk.ring.check(made.text)
