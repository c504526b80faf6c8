from __future__ import annotations

import random

import pytest
from contract.store.builders import a_commit, a_run, a_version, an_entry, an_update, digest_of
from contract.store.places import Place
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedfleet.errors import ChecksumMismatch, Conflict, NotFound, TransferInvalid
from fedfleet.store.protocols import RunState, Store

DATA = random.Random(0).randbytes(100_000)
DIGEST = digest_of(DATA)
NOT_DIGESTS = ["", "x", "../../../etc/passwd", DIGEST[:-1], DIGEST.upper(), DIGEST + "\n", "\ud800"]


@pytest.mark.parametrize("data", [b"", b"a", DATA])
def test_put_stores_under_the_digest(store: Store, data: bytes) -> None:
    assert store.blobs.put(data) == digest_of(data)
    assert store.blobs.put(data) == digest_of(data)

    assert store.blobs.size(digest_of(data)) == len(data)
    assert store.blobs.read(digest_of(data)) == data


def test_read_gives_any_part(store: Store) -> None:
    store.blobs.put(DATA)

    assert store.blobs.read(DIGEST, 99_000) == DATA[99_000:]
    assert store.blobs.read(DIGEST, 10, 20) == DATA[10:30]
    assert store.blobs.read(DIGEST, 99_990, 20) == DATA[99_990:]
    assert store.blobs.read(DIGEST, 0, 0) == b""
    for beyond in (100_000, 100_001, 2**64 - 1):
        assert store.blobs.read(DIGEST, beyond, 2**64 - 1) == b""


@pytest.mark.parametrize("digest", [DIGEST, *NOT_DIGESTS])
def test_blob_that_is_not_there(store: Store, digest: str) -> None:
    assert store.blobs.size(digest) is None
    store.blobs.delete(digest)
    with pytest.raises(NotFound) as caught:
        store.blobs.read(digest)
    assert caught.value.code == "NOT_FOUND"


@pytest.mark.parametrize("digest", NOT_DIGESTS)
def test_writer_refuses_what_is_no_digest(store: Store, digest: str) -> None:
    with pytest.raises(TransferInvalid) as caught:
        store.blobs.writer(digest, 10, "key")
    assert caught.value.code == "TRANSFER_INVALID"


def test_writer_refuses_a_negative_size(store: Store) -> None:
    with pytest.raises(TransferInvalid):
        store.blobs.writer(DIGEST, -1, "key")


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    data=st.binary(max_size=2000),
    cuts=st.lists(st.integers(0, 2000), max_size=5),
    reopen=st.booleans(),
)
def test_writer_resumes_wherever_it_was_cut(
    place: Place, data: bytes, cuts: list[int], reopen: bool
) -> None:
    digest = digest_of(data)
    store = place.open()
    store.blobs.delete(digest)  # of an earlier example
    for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        writer = store.blobs.writer(digest, len(data), "key")
        writer.write(data[writer.offset_bytes : cut])
        assert writer.offset_bytes == cut
        assert store.blobs.size(digest) is None
        writer.close()
        if reopen:
            store.close()
            store = place.open()

    writer = store.blobs.writer(digest, len(data), "key")
    assert writer.offset_bytes == len(data)
    writer.commit()
    writer.close()

    assert store.blobs.read(digest) == data
    store.close()


def test_writers_with_different_keys_do_not_meet(store: Store) -> None:
    first = store.blobs.writer(DIGEST, len(DATA), "worker-a")
    first.write(DATA[:500])
    second = store.blobs.writer(DIGEST, len(DATA), "worker-b/../x")
    assert second.offset_bytes == 0

    second.write(DATA)
    second.commit()
    first.write(DATA[500:])
    first.commit()

    assert store.blobs.read(DIGEST) == DATA


def test_writer_of_a_stored_blob_has_nothing_to_do(store: Store) -> None:
    store.blobs.put(DATA)

    writer = store.blobs.writer(DIGEST, len(DATA), "key")
    assert writer.offset_bytes == len(DATA)
    with pytest.raises(TransferInvalid):
        writer.write(b"more")
    writer.commit()
    writer.close()

    with pytest.raises(TransferInvalid, match="100000 bytes"):
        store.blobs.writer(DIGEST, 5, "key")


def test_writer_refuses_more_than_announced_and_goes_on(store: Store) -> None:
    writer = store.blobs.writer(DIGEST, len(DATA), "key")
    writer.write(DATA[:-1])

    with pytest.raises(TransferInvalid, match="100001 bytes came, 100000") as caught:
        writer.write(b"xx")
    assert caught.value.code == "TRANSFER_INVALID"
    assert writer.offset_bytes == len(DATA) - 1
    writer.write(DATA[-1:])
    writer.commit()

    assert store.blobs.read(DIGEST) == DATA


def test_commit_too_early_is_refused_and_keeps_the_bytes(store: Store) -> None:
    writer = store.blobs.writer(DIGEST, len(DATA), "key")
    writer.write(DATA[:10])

    with pytest.raises(TransferInvalid, match="10 bytes came"):
        writer.commit()
    writer.close()

    again = store.blobs.writer(DIGEST, len(DATA), "key")
    assert again.offset_bytes == 10
    again.close()


@pytest.mark.parametrize("resumed", [False, True])
def test_commit_of_wrong_bytes_is_refused_and_drops_them(store: Store, resumed: bool) -> None:
    writer = store.blobs.writer(DIGEST, len(DATA), "key")
    writer.write(bytes(500))
    if resumed:
        writer.close()
        writer = store.blobs.writer(DIGEST, len(DATA), "key")
    writer.write(DATA[500:])

    with pytest.raises(ChecksumMismatch, match=DIGEST) as caught:
        writer.commit()
    assert caught.value.code == "CHECKSUM_MISMATCH"

    assert store.blobs.size(DIGEST) is None
    again = store.blobs.writer(DIGEST, len(DATA), "key")
    assert again.offset_bytes == 0
    again.close()


def test_resuming_with_a_smaller_size_starts_over(store: Store) -> None:
    writer = store.blobs.writer(digest_of(b"abc"), 1000, "key")
    writer.write(bytes(500))
    writer.close()

    again = store.blobs.writer(digest_of(b"abc"), 3, "key")
    assert again.offset_bytes == 0
    again.write(b"abc")
    again.commit()

    assert store.blobs.read(digest_of(b"abc")) == b"abc"


def test_a_new_writer_takes_over_from_one_still_open(store: Store) -> None:
    stalled = store.blobs.writer(DIGEST, len(DATA), "key")
    stalled.write(DATA[:500])

    writer = store.blobs.writer(DIGEST, len(DATA), "key")
    assert writer.offset_bytes == 500
    for call in (lambda: stalled.write(DATA[500:]), stalled.commit):
        with pytest.raises(TransferInvalid, match="took over"):
            call()
    stalled.close()
    writer.write(DATA[500:])
    writer.commit()

    assert store.blobs.read(DIGEST) == DATA


def test_a_key_keeps_only_what_it_began_last(store: Store) -> None:
    store.blobs.writer(DIGEST, len(DATA), "another").write(DATA[:700])
    first = store.blobs.writer(DIGEST, len(DATA), "key")
    first.write(DATA[:500])

    second = store.blobs.writer(digest_of(b"abc"), 3, "key")
    with pytest.raises(TransferInvalid, match="took over"):
        first.write(DATA[500:])
    second.write(b"abc")
    second.commit()

    for key, offset_bytes in (("key", 0), ("another", 700)):
        writer = store.blobs.writer(DIGEST, len(DATA), key)
        assert writer.offset_bytes == offset_bytes
        writer.close()


def test_closed_writer_refuses_to_go_on(store: Store) -> None:
    writer = store.blobs.writer(DIGEST, len(DATA), "key")
    writer.close()
    writer.close()

    for call in (lambda: writer.write(b"x"), writer.commit):
        with pytest.raises(TransferInvalid, match="closed"):
            call()


def test_delete_removes_and_the_blob_can_come_back(store: Store) -> None:
    store.blobs.put(DATA)

    store.blobs.delete(DIGEST)
    assert store.blobs.size(DIGEST) is None
    store.blobs.put(DATA)

    assert store.blobs.read(DIGEST) == DATA


def test_delete_refuses_the_blob_of_a_version(store: Store, place: Place) -> None:
    store.journal.create_run(a_run(), an_entry())
    store.blobs.put(b"weights")
    store.commit_round(a_commit(a_version(1)))
    store.journal.set_run_state("run-1", RunState.COMPLETED, an_entry())

    with place.open() as other:
        for seen in (store, other):
            with pytest.raises(Conflict, match="version 1 of model digits") as caught:
                seen.blobs.delete(a_version(1).digest)
            assert caught.value.code == "CONFLICT"

    assert store.blobs.read(a_version(1).digest) == b"weights"


def test_delete_refuses_what_a_going_run_needs(store: Store) -> None:
    for data in (b"weights", b"memory 1", b"memory 2", b"payload"):
        store.blobs.put(data)
    store.journal.create_run(a_run(), an_entry())
    store.commit_round(a_commit(a_version(1), memory_digest=digest_of(b"memory 1")))
    store.journal.accept_update(an_update(round=2), an_entry())

    for data in (b"memory 1", b"payload"):
        with pytest.raises(Conflict, match="run-1"):
            store.blobs.delete(digest_of(data))
    store.commit_round(a_commit(a_version(2), memory_digest=digest_of(b"memory 2")))

    for data in (b"memory 1", b"payload"):
        store.blobs.delete(digest_of(data))
        assert store.blobs.size(digest_of(data)) is None
    with pytest.raises(Conflict):
        store.blobs.delete(digest_of(b"memory 2"))
    store.journal.set_run_state("run-1", RunState.STOPPED, an_entry())
    store.blobs.delete(digest_of(b"memory 2"))
    assert store.blobs.size(digest_of(b"memory 2")) is None
