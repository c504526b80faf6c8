from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedfleet.errors import CertificateInvalid, NotFound, StoreFull, StoreUnavailable
from fedfleet.identity.files import (
    MAX_BYTES,
    is_there,
    locked,
    read_private,
    read_public,
    write_private,
    write_public,
)

# Takes a folder's lock and says so; keeps it until its standard input ends.
HOLDER = """
import sys
from pathlib import Path
from fedfleet.identity.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_written_files_are_for_those_who_may_read_them(tmp_path: Path) -> None:
    previous = os.umask(0o077)
    try:
        write_private(tmp_path / "key", b"secret")
        write_public(tmp_path / "certificate", b"open")
    finally:
        os.umask(previous)

    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "certificate").stat().st_mode & 0o777 == 0o644
    assert read_private(tmp_path / "key") == b"secret"
    assert read_public(tmp_path / "certificate") == b"open"


def test_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o644)

    write_private(path, b"first")
    write_private(path, b"second")

    assert list(tmp_path.iterdir()) == [path]
    assert read_private(path) == b"second"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o666, 0o777])
def test_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    write_private(path, b"secret")
    path.chmod(mode)

    with pytest.raises(CertificateInvalid, match=f"{mode:o}.*chmod it to 600") as caught:
        read_private(path)

    assert "secret" not in caught.value.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(("mode", "is_good"), [(0o440, True), (0o640, True), (0o644, False)])
def test_key_of_root_may_be_read_by_a_group(tmp_path: Path, mode: int, is_good: bool) -> None:
    path = tmp_path / "key"
    write_private(path, b"secret")
    path.chmod(mode)
    os.chown(path, 0, 65534)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    code = (
        "import os, sys; from pathlib import Path; from fedfleet.identity.files import *\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print(read_private(Path(sys.argv[1])))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )

    assert ("b'secret'" in done.stdout) == is_good, done.stderr
    assert ("chmod it to 640" in done.stderr) != is_good


def test_read_tells_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file"):
        read_private(tmp_path / "none")
    with pytest.raises(CertificateInvalid, match="is not a file"):
        read_public(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(CertificateInvalid, match="is not a file"):
        read_private(tmp_path / "pipe")
    write_public(tmp_path / "large", bytes(MAX_BYTES + 1))
    with pytest.raises(CertificateInvalid, match="too large"):
        read_public(tmp_path / "large")


def test_write_where_there_is_no_folder_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="No such file or directory"):
        write_private(tmp_path / "none" / "key", b"secret")
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable), locked(tmp_path / "file"):
        pytest.fail("locked a file")
    with pytest.raises(StoreUnavailable, match="Not a directory"):
        is_there(tmp_path / "file" / "key")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("mounting a small disk needs root")
    command = [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let root mount a disk")
    try:
        yield tmp_path
    finally:
        subprocess.run([umount, str(tmp_path)], check=True)


def test_full_disk_changes_nothing(small_disk: Path) -> None:
    path = small_disk / "key"
    write_private(path, b"old")
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "filler").write_bytes(bytes(1 << 20))

    with pytest.raises(StoreFull, match="No space left"):
        write_private(path, b"new")

    assert read_private(path) == b"old"
    assert {one.name for one in small_disk.iterdir()} == {"key", "filler"}
    (small_disk / "filler").unlink()
    write_private(path, b"new")
    assert read_private(path) == b"new"


def test_lock_makes_a_folder_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "ca"

    with locked(folder):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_lock_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    (tmp_path / ".key.0123456789abcdef.partial").touch()
    (tmp_path / "mine.partial").touch()

    with locked(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {"lock", "mine.partial"}


def test_lock_of_a_folder_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    with pytest.raises(CertificateInvalid, match="chmod it to 700"), locked(tmp_path):
        pytest.fail("locked it")


def test_lock_waits_for_its_holder_and_outlives_its_death(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    taken = threading.Event()

    def take() -> None:
        with locked(tmp_path):
            taken.set()

    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        thread = threading.Thread(target=take)
        thread.start()
        assert not taken.wait(0.2)
        holder.kill()
        assert taken.wait(30)
        thread.join()
