from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from contract.store import audit_child
from contract.store.builders import a_deed
from contract.store.children import ask, child, next_line
from contract.store.places import Place
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedfleet.store.audit import AuditRecord, Deed, verify
from fedfleet.store.protocols import Store

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(TEXTS | st.integers(), VALUES | st.tuples(TEXTS), max_size=4)


def test_an_empty_log_has_no_head(store: Store) -> None:
    assert (store.audit.head(), store.audit.records()) == (None, [])


def test_append_numbers_and_chains_over_openings(place: Place) -> None:
    appended = []
    for number in range(1, 4):
        with place.open() as store:
            appended.append(store.audit.append(a_deed(fields={"n": number})))

    with place.open() as store:
        assert store.audit.records() == appended
        assert store.audit.head() == appended[-1]
        assert [record.number for record in appended] == [1, 2, 3]
        assert [record.fields["n"] for record in appended] == [1, 2, 3]
        assert verify(store.audit.records()) == 3


def test_records_come_in_pages_that_verify_from_page_to_page(store: Store) -> None:
    appended = [store.audit.append(a_deed(fields={"n": number})) for number in range(25)]

    pages: list[list[AuditRecord]] = []
    while page := store.audit.records(after_number=10 * len(pages), limit=10):
        assert verify(page, pages[-1][-1] if pages else None) == len(page)
        pages.append(page)

    assert [len(page) for page in pages] == [10, 10, 5]
    assert [record for page in pages for record in page] == appended
    assert store.audit.records(after_number=25) == store.audit.records(limit=0) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at_s=NUMBERS, texts=st.tuples(TEXTS, TEXTS, TEXTS), fields=FIELDS)
def test_any_deed_is_read_back_as_it_was_chained(
    store: Store, at_s: float, texts: tuple[str, str, str], fields: dict[Any, Any]
) -> None:
    actor, action, what = texts
    before = store.audit.head()

    appended = store.audit.append(
        Deed(at_s=at_s, actor=actor, action=action, object=what, fields=fields)
    )

    assert repr(store.audit.head()) == repr(appended)  # 1 and 1.0 and True are not the same
    assert verify([appended], before) == 1
    assert (appended.at_s, appended.actor, appended.action, appended.object) == (at_s, *texts)


def test_many_threads_append_to_one_chain(store: Store, place: Place) -> None:
    with place.open() as other, ThreadPoolExecutor(8) as pool:
        stores = [store, other] * 40
        numbers = [record.number for record in pool.map(lambda s: s.audit.append(a_deed()), stores)]

    assert sorted(numbers) == list(range(1, 81))
    assert verify(store.audit.records()) == 80


def test_many_processes_append_to_one_chain(store: Store, place: Place) -> None:
    actors = [f"operator/{name}" for name in "abcd"]
    with ExitStack() as stack:
        children = [
            stack.enter_context(child(audit_child.__file__, place.url, actor, "50"))
            for actor in actors
        ]
        for each in children:
            ask(each, "go")
        last = max(int(next_line(each)) for each in children)

    records = store.audit.records()
    assert verify(records) == last == 200
    for actor in actors:
        places = [record.fields["place"] for record in records if record.actor == actor]
        assert places == list(range(50))
