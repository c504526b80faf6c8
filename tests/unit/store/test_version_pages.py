from __future__ import annotations

from collections.abc import Iterator

import pytest
from contract.store.builders import an_import
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.store import version_pages
from fedfleet.store.protocols import Store, VersionRecord
from fedfleet.store.sqlite import SqliteStore
from fedfleet.store.version_pages import each_version

COUNT = 9


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with SqliteStore(tmp_path_factory.mktemp("store")) as store:
        store.blobs.put(b"weights")
        for number in range(1, COUNT + 1):
            store.registry.add(an_import(number))
        yield store


@given(
    before=st.none() | st.integers(0, COUNT + 2),
    limit=st.none() | st.integers(0, COUNT + 2),
    at_once=st.integers(1, COUNT + 1),
)
def test_each_version_is_what_one_question_answers(
    store: Store, before: int | None, limit: int | None, at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(version_pages, "AT_ONCE", at_once)
        found = list(each_version(store.registry, "old", before, limit))

    assert found == store.registry.versions("old", before, limit)


def test_each_version_asks_for_what_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = store.registry.versions

    def noting(
        model: str, before: int | None = None, limit: int | None = None
    ) -> list[VersionRecord]:
        asked.append((before, limit))
        return real(model, before, limit)

    monkeypatch.setattr(version_pages, "AT_ONCE", 4)
    monkeypatch.setattr(store.registry, "versions", noting)
    versions = each_version(store.registry, "old", limit=6)

    assert asked == []
    assert [next(versions).number for _ in range(4)] == [9, 8, 7, 6]
    assert asked == [(None, 4)]
    assert [version.number for version in versions] == [5, 4]
    assert asked == [(None, 4), (6, 2)]
