from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedfleet.data.catalog import describe, open_dataset
from fedfleet.data.config import DataConfig, FolderOptions
from fedfleet.data.shard import load_examples
from fedfleet.errors import DataEmpty, DataInvalid, DataMissing, ImageTooLarge

CONFIG = DataConfig(dataset="folder", options=FolderOptions(classes=("cat", "dog"), image_size=8))


def shade(level: int) -> np.ndarray:
    return np.full((8, 8, 3), level, np.uint8)


@pytest.fixture
def data_dir(tmp_path: Path, encode) -> Path:
    """Shades tell the files apart: dogs are dark, cats are light."""
    for file, level in {
        "train/dog/a.png": 10,
        "train/dog/deep/b.PNG": 20,
        "train/cat/z.webp": 200,
        "train/cat/.hidden.png": 0,
        "train/cat/notes.txt": 0,
        "test/cat/t.bmp": 210,
    }.items():
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(shade(level), path.suffix[1:].upper().replace("TXT", "PNG")))
    return tmp_path


def test_folder_labels_files_by_their_class_folder(data_dir):
    images = open_dataset(CONFIG, "train", data_dir)

    pixels = images.load(np.array([2, 0, 1]))

    assert images.labels.tolist() == [0, 1, 1]
    assert pixels.shape == (3, 3, 8, 8)
    assert abs(int(pixels[1].mean()) - 200) <= 2
    assert [int(pixels[0].mean()), int(pixels[2].mean())] == [20, 10]
    assert open_dataset(CONFIG, "test", data_dir).labels.tolist() == [0]


def test_folder_describes_itself_without_data():
    options = FolderOptions(classes=("cat", "dog", "owl"), image_size=16, channels=1)
    spec = describe(DataConfig(dataset="folder", options=options))

    assert spec.classes == ("cat", "dog", "owl")
    assert (spec.inputs.channels, spec.inputs.height, len(spec.inputs.mean)) == (1, 16, 1)


def test_folder_scales_and_converts_to_what_the_recipe_asks(tmp_path, encode):
    (tmp_path / "train" / "dog").mkdir(parents=True)
    (tmp_path / "train" / "dog" / "big.png").write_bytes(encode(np.full((40, 90), 77, np.uint8)))

    examples = load_examples(CONFIG, "train", seed=0, shard=None, data_dir=tmp_path)

    assert examples.images.shape == (1, 3, 8, 8)
    assert (examples.images == 77).all()


def test_folder_with_an_unknown_class_is_invalid(data_dir):
    (data_dir / "train" / "dogs").mkdir()

    with pytest.raises(DataInvalid, match=r"train/dogs/ is no class; did you mean 'dog'") as caught:
        open_dataset(CONFIG, "train", data_dir)

    assert caught.value.code == "DATA_INVALID"


def test_folder_with_an_image_outside_the_classes_is_invalid(data_dir, encode):
    (data_dir / "train" / "lost.png").write_bytes(encode(shade(1)))

    with pytest.raises(DataInvalid, match=r"train/lost.png lies outside"):
        open_dataset(CONFIG, "train", data_dir)


def test_folder_without_images_is_empty(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)

    with pytest.raises(DataEmpty, match="train/ holds no image") as caught:
        open_dataset(CONFIG, "train", tmp_path)

    assert caught.value.code == "DATA_EMPTY"


@pytest.mark.parametrize("given", [None, "empty"])
def test_folder_that_is_not_there_is_missing(tmp_path, given):
    with pytest.raises(DataMissing) as caught:
        open_dataset(CONFIG, "train", tmp_path if given else None)

    assert caught.value.code == "DATA_MISSING"
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_folder_names_a_corrupt_image(data_dir, content):
    (data_dir / "train" / "dog" / "deep" / "broken.jpg").write_bytes(content)

    with pytest.raises(DataInvalid, match=r"^train/dog/deep/broken.jpg: ") as caught:
        load_examples(CONFIG, "train", seed=0, shard=None, data_dir=data_dir)

    assert caught.value.code == "DATA_INVALID"
    assert str(data_dir) not in caught.value.message


def test_folder_names_an_image_bomb(data_dir, encode):
    (data_dir / "train" / "cat" / "bomb.png").write_bytes(encode(np.zeros((5000, 5000), np.uint8)))

    with pytest.raises(ImageTooLarge, match=r"^train/cat/bomb.png: .*24 megapixels") as caught:
        load_examples(CONFIG, "train", seed=0, shard=None, data_dir=data_dir)

    assert caught.value.code == "IMAGE_TOO_LARGE"


def test_folder_names_a_file_that_cannot_be_read(data_dir):
    (data_dir / "train" / "cat" / "gone.png").symlink_to(data_dir / "nowhere.png")

    with pytest.raises(DataInvalid, match=r"train/cat/gone.png cannot be read"):
        load_examples(CONFIG, "train", seed=0, shard=None, data_dir=data_dir)
