from __future__ import annotations

import hashlib
import io
import pickle  # noqa: TID251  # the publisher's format, to make a small archive of it
import tarfile
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from urllib.response import addinfourl

import numpy as np
import pytest

from fedfleet.data import cifar_download
from fedfleet.data.catalog import open_dataset
from fedfleet.data.config import CifarOptions, DataConfig
from fedfleet.errors import Unavailable

CONFIG = DataConfig(dataset="cifar100", options=CifarOptions(download=True))
TRAIN = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
TEST = np.random.default_rng(1).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)


class Body(io.BytesIO):
    """What torchvision reads from an answer: the bytes and their number."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.length = len(data)


class Published(urllib.request.BaseHandler):
    """Serves one file under the scheme ``published``."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive

    def published_open(self, request: urllib.request.Request) -> addinfourl:
        if not self._archive.exists():
            raise urllib.error.URLError("nobody there")
        return addinfourl(Body(self._archive.read_bytes()), Message(), request.full_url)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small archive in the publisher's format, at an address that needs no socket."""
    source = cifar_download._SETS["cifar100"]
    files = {
        "train": {"data": TRAIN.reshape(6, -1), "fine_labels": [0, 1, 2, 97, 98, 99]},
        "test": {"data": TEST.reshape(3, -1), "fine_labels": [5, 6, 7]},
        "meta": {"fine_label_names": [str(label) for label in range(100)]},
    }
    encoded = {name: pickle.dumps(value) for name, value in files.items()}
    archive = tmp_path / "published" / source.filename
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for name, data in encoded.items():
            member = tarfile.TarInfo(f"{source.base_folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in encoded.items()}
    opener = urllib.request.build_opener(Published(archive))
    monkeypatch.setattr(urllib.request, "_opener", opener)
    monkeypatch.setattr(source, "url", f"published://host/{source.filename}")
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(source, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(source, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": md5["meta"]})
    return archive


def test_download_leaves_the_set_in_the_layout_that_is_read(tmp_path, published):
    data_dir = tmp_path / "data"

    images = open_dataset(CONFIG, "train", data_dir)
    published.unlink()
    test = open_dataset(CONFIG, "test", data_dir)

    assert images.labels.tolist() == [0, 1, 2, 97, 98, 99]
    assert np.array_equal(images.load(np.arange(6)), TRAIN)
    assert np.array_equal(test.load(np.array([2, 0])), TEST[[2, 0]])
    assert [path.name for path in data_dir.iterdir()] == ["cifar100"]


@pytest.mark.parametrize("damage", ["absent", "altered"])
def test_download_that_fails_leaves_nothing(tmp_path, published, damage):
    if damage == "absent":
        published.unlink()
    else:
        published.write_bytes(published.read_bytes() + b"x")

    with pytest.raises(Unavailable, match="cifar100 cannot be downloaded") as caught:
        open_dataset(CONFIG, "train", tmp_path / "data")

    assert caught.value.code == "UNAVAILABLE"
    assert list((tmp_path / "data").iterdir()) == []
    assert str(tmp_path) not in caught.value.message


def test_download_gives_way_to_a_process_that_was_first(tmp_path):
    (tmp_path / "ready").mkdir()
    (tmp_path / "cifar100").mkdir()
    (tmp_path / "cifar100" / "theirs").touch()

    cifar_download._publish(tmp_path / "ready", tmp_path / "cifar100")

    assert (tmp_path / "cifar100" / "theirs").exists()
