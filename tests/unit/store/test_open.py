from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fedfleet.errors import SettingInvalid, StoreUnavailable
from fedfleet.store.open import open_store


def test_open_store_makes_the_folder_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "state"

    with open_store(f"sqlite:{folder}") as store:
        assert store.registry.models() == []

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_open_store_leaves_the_mode_of_a_folder_that_is_there(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)

    open_store(f"sqlite:{tmp_path}").close()

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_open_store_takes_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    open_store("sqlite:state").close()

    assert (tmp_path / "state" / "fedfleet.db").is_file()


@pytest.mark.parametrize(
    "url",
    [
        *("", "sqlite", "sqlite:", "sqlite: ", "/var/state", "SQLITE:x", "sqlite:~no/x"),
        *("redis", "redis:", "redis://", "redis:///0", "unix:", "REDIS://host", "https://host"),
    ],
)
def test_open_store_refuses_other_urls(url: str) -> None:
    with pytest.raises(SettingInvalid) as caught:
        open_store(url)

    assert caught.value.code == "SETTING_INVALID"
    assert repr(url) in caught.value.message


def test_open_store_shows_no_password_of_a_url_that_it_does_not_know() -> None:
    with pytest.raises(SettingInvalid, match=r"'rediz://\*\*\*@host/0'") as caught:
        open_store("rediz://ada:s3cret@host/0?password=s3cret")

    assert "s3cret" not in caught.value.message


def test_open_store_needs_no_redis_library_for_a_folder(tmp_path: Path) -> None:
    code = f"""
import sys
from fedfleet.store.open import open_store
open_store("sqlite:{tmp_path}").close()
assert "redis" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_open_store_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SettingInvalid, match="must be a folder"):
        open_store(f"sqlite:{tmp_path / 'file'}")


def test_open_store_says_when_the_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StoreUnavailable, match="Not a directory") as caught:
        open_store(f"sqlite:{tmp_path / 'file' / 'state'}")

    assert str(tmp_path) not in caught.value.message
    assert str(tmp_path) in caught.value.detail


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_open_store_says_when_the_folder_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(StoreUnavailable, match="Permission denied"):
        open_store(f"sqlite:{tmp_path / 'state'}")
