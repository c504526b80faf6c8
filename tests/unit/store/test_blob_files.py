from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.store.builders import digest_of

from fedfleet.errors import StoreUnavailable, TransferInvalid
from fedfleet.store.blob_files import STALE_S
from fedfleet.store.sqlite import SqliteStore

DATA = b"some bytes"
DIGEST = digest_of(DATA)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path) as store:
        yield store


def blob_path(folder: Path) -> Path:
    return folder / "blobs" / "sha256" / DIGEST[:2] / DIGEST


def partials(folder: Path) -> list[Path]:
    return list((folder / "partial").iterdir())


def test_blobs_lie_under_the_first_two_digits(store: SqliteStore, tmp_path: Path) -> None:
    store.blobs.put(DATA)

    assert blob_path(tmp_path).read_bytes() == DATA
    assert partials(tmp_path) == []


def test_partial_bytes_lie_apart_under_a_harmless_name(store: SqliteStore, tmp_path: Path) -> None:
    writer = store.blobs.writer(DIGEST, len(DATA), "../../key/\0\ud800")
    writer.write(DATA[:4])

    (partial,) = partials(tmp_path)
    assert partial.read_bytes() == DATA[:4]
    assert not blob_path(tmp_path).exists()
    writer.write(DATA[4:])
    writer.commit()
    assert partials(tmp_path) == []


@pytest.mark.parametrize("way", ["put", "writer", "stored already"])
def test_bytes_are_synced_before_the_name_and_the_name_before_the_return(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "stored already":
        store.blobs.put(DATA)
    calls: list[tuple[str, Path]] = []
    fsync, replace = os.fsync, Path.replace

    def seen_fsync(descriptor: int) -> None:
        calls.append(("fsync", Path(f"/proc/self/fd/{descriptor}").resolve()))
        fsync(descriptor)

    def seen_replace(path: Path, target: Path) -> Path:
        calls.append(("rename", path))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "replace", seen_replace)
    if way == "writer":
        writer = store.blobs.writer(DIGEST, len(DATA), "key")
        writer.write(DATA)
        writer.commit()
    else:
        store.blobs.put(DATA)

    folder = blob_path(tmp_path).parent
    assert calls[-1] == ("fsync", folder)
    if way != "stored already":
        written, named_folder, renamed = calls[0], calls[1], calls[2]
        assert written == ("fsync", renamed[1])
        assert named_folder == ("fsync", folder.parent)
        assert renamed[0] == "rename"


def test_wrong_bytes_leave_no_file(store: SqliteStore, tmp_path: Path) -> None:
    writer = store.blobs.writer(DIGEST, len(DATA), "key")
    writer.write(DATA[::-1])

    with pytest.raises(Exception, match="SHA-256"):
        writer.commit()

    assert partials(tmp_path) == []
    assert not blob_path(tmp_path).exists()


def test_a_failed_sync_drops_the_bytes(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = store.blobs.writer(DIGEST, len(DATA), "key")
    writer.write(DATA)

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(StoreUnavailable, match="Input/output error"):
            writer.commit()

    assert partials(tmp_path) == []
    assert store.blobs.size(DIGEST) is None
    assert store.blobs.put(DATA) == DIGEST


def test_commit_of_a_stored_blob_that_was_deleted_meanwhile_says_so(store: SqliteStore) -> None:
    store.blobs.put(DATA)
    writer = store.blobs.writer(DIGEST, len(DATA), "key")
    store.blobs.delete(DIGEST)

    with pytest.raises(StoreUnavailable, match="send it again"):
        writer.commit()


def test_uploads_begun_under_ever_new_digests_keep_one_partial(tmp_path: Path) -> None:
    with SqliteStore(tmp_path) as store:
        other = store.blobs.writer(DIGEST, len(DATA), "another key")
        other.write(DATA[:4])
        writers = [store.blobs.writer(f"{n:064x}", len(DATA), "key") for n in range(10)]
        writers[-1].write(DATA[:4])

        assert len(partials(tmp_path)) == 2
        with pytest.raises(TransferInvalid, match="closed"):
            writers[0].write(DATA[:4])
        writers[-1].close()
        other.write(DATA[4:])
        other.commit()


def test_opening_drops_partials_of_uploads_that_were_given_up(tmp_path: Path) -> None:
    with SqliteStore(tmp_path) as store:
        for key, age_s in (("old", STALE_S + 60), ("new", STALE_S - 60)):
            writer = store.blobs.writer(DIGEST, len(DATA), key)
            writer.write(DATA[:4])
            writer.close()
            newest = max(partials(tmp_path), key=lambda path: path.stat().st_mtime)
            then = newest.stat().st_mtime - age_s
            os.utime(newest, (then, then))

    with SqliteStore(tmp_path) as store:
        assert len(partials(tmp_path)) == 1
        writer = store.blobs.writer(DIGEST, len(DATA), "new")
        assert writer.offset_bytes == 4
        writer.close()


def test_a_blob_folder_that_cannot_be_used_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "blobs").touch()

    with pytest.raises(StoreUnavailable) as caught:
        SqliteStore(tmp_path)

    assert caught.value.code == "STORE_UNAVAILABLE"
