"""Folders as the commands write and read them, and the code by which the documents load one."""

from __future__ import annotations

import hashlib
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fedfleet.errors import (
    AlreadyExists,
    ChecksumMismatch,
    FedFleetError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    SchemaMismatch,
)
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.models.config import BUILT_IN, ModelConfig
from fedfleet.training.state import initial_state, load_state
from fedfleet.types import InputSpec, ModelState
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.limits import MAX_IMPORT_BYTES
from fedfleet.wire.version_folder import (
    RECORD,
    WEIGHTS,
    ExportedVersion,
    exported_from_json,
    exported_from_message,
    import_header,
    read_folder,
    read_pieces,
    write_folder,
)
from fedfleet.wire.weights import encode_state

PAGE = (Path(__file__).parents[3] / "docs" / "registry.md").read_text()
IMAGES = InputSpec(channels=3, height=16, width=16, mean=(0.5,) * 3, std=(0.25,) * 3)


def card_of(architecture: str, **options: Any) -> ModelCard:
    chosen = BUILT_IN[architecture](**options)
    model = ModelConfig(architecture=architecture, options=chosen)
    return ModelCard(model=model, inputs=IMAGES, classes=("cat", "dog", "eel"))


CARD = card_of("mlp", hidden=(8,))


def a_state(card: ModelCard = CARD) -> ModelState:
    """A state with statistics of its own: a fresh model's would hide a mistake."""
    state = initial_state(card, 5)
    statistics = np.linspace(0.5, 1.5, state.statistics.size, dtype=np.float32)
    return ModelState(state.schema, state.trainable, statistics, state.counters)


def exported(state: ModelState, card: ModelCard = CARD) -> tuple[ExportedVersion, bytes]:
    data = encode_state(state)
    version = pb.Version(
        model="digits",
        number=7,
        digest=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        run_id="r-1",
        round=6,
        parent=6,
        created_at_s=103.5,
        card_json=json.dumps(card.to_json()),
        metrics_json='{"evaluation": {"accuracy": 0.5}}',
        lineage_json='{"algorithm": "fedavg"}',
        signature="ab" * 64,
    )
    header = pb.ExportHeader(version=version, schema_json=json.dumps(state.schema.to_json()))
    return exported_from_message(header), data


def written(folder: Path, card: ModelCard = CARD) -> ExportedVersion:
    version, data = exported(a_state(card), card)
    write_folder(folder, version, [data[:100], data[100:]])
    return version


def test_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    version = written(tmp_path / "out")

    again = read_folder(tmp_path / "out")

    assert again == version
    assert b"".join(read_pieces(tmp_path / "out")) == encode_state(a_state())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [WEIGHTS, RECORD]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert json.loads((tmp_path / "out" / RECORD).read_text())["card"] == CARD.to_json()


def test_header_says_where_a_version_comes_from(tmp_path: Path) -> None:
    header = import_header(written(tmp_path / "out"), "bought", ("candidate",))

    lineage = json.loads(header.lineage_json)
    assert lineage["algorithm"] == "fedavg"
    assert lineage["imported"] == {
        "model": "digits",
        "version": 7,
        "run_id": "r-1",
        "round": 6,
        "parent": 6,
        "created_at_s": 103.5,
        "signature": "ab" * 64,
    }
    assert (header.model, list(header.aliases)) == ("bought", ["candidate"])


@pytest.mark.parametrize("model", ["\ud800", "", "../x", "Digits"])
def test_header_is_for_a_model_that_can_be(tmp_path: Path, model: str) -> None:
    with pytest.raises(InvalidInput, match="model"):
        import_header(written(tmp_path / "out"), model, ())


@pytest.mark.parametrize("alias", ["\udcff", "7", "prod eu"])
def test_header_names_aliases_that_can_be(tmp_path: Path, alias: str) -> None:
    with pytest.raises(InvalidInput, match="alias"):
        import_header(written(tmp_path / "out"), "bought", ("fine", alias))


@pytest.mark.parametrize("bytes_lost", [1, -1])
def test_bytes_that_do_not_come_whole_leave_nothing(tmp_path: Path, bytes_lost: int) -> None:
    version, data = exported(a_state())
    sent = data[:-1] if bytes_lost == 1 else data + b"x"

    with pytest.raises(InvalidInput):
        write_folder(tmp_path / "out", version, [sent])

    assert list(tmp_path.iterdir()) == []


def test_bytes_that_are_others_leave_nothing(tmp_path: Path) -> None:
    version, data = exported(a_state())

    with pytest.raises(ChecksumMismatch):
        write_folder(tmp_path / "out", version, [data[:-1] + bytes([data[-1] ^ 1])])

    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path: Path) -> None:
    version, data = exported(a_state())
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")

    for name in ("file", "folder"):
        with pytest.raises(AlreadyExists, match=name):
            write_folder(tmp_path / name, version, [data])

    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "folder" / "mine").read_text() == "mine"


BAD_RECORDS: dict[str, tuple[dict[str, Any], type[FedFleetError]]] = {
    "another format": ({"format": "other/1"}, InvalidInput),
    "a text for a number": ({"version": "7"}, InvalidInput),
    "a truth for a number": ({"round": True}, InvalidInput),
    "a list for a card": ({"card": []}, InvalidInput),
    "no digest": ({"digest": "AB"}, InvalidInput),
    "a negative size": ({"size_bytes": -1}, InvalidInput),
    "another size": ({"size_bytes": 1}, InvalidInput),
    "far too large": ({"size_bytes": MAX_IMPORT_BYTES + 1}, LimitExceeded),
    "no schema": ({"schema": {}}, InvalidInput),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_record_of_another_form_is_refused(tmp_path: Path, name: str) -> None:
    changes, error = BAD_RECORDS[name]
    written(tmp_path / "out")
    record = json.loads((tmp_path / "out" / RECORD).read_text())

    with pytest.raises(error):
        exported_from_json({**record, **changes})
    for field in record:
        with pytest.raises(InvalidInput):
            exported_from_json({key: value for key, value in record.items() if key != field})


def test_folder_that_is_damaged_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    written(folder)
    data, record = (folder / WEIGHTS).read_bytes(), (folder / RECORD).read_text()
    other = json.loads(record)
    other["schema"][0]["name"] = "layers.1.wEight"

    for name, damaged, error in (
        (WEIGHTS, data[:-4], InvalidInput),
        (WEIGHTS, bytes(len(data)), ChecksumMismatch),
        (RECORD, record[:-9].encode(), InvalidInput),
        (RECORD, b"[]", InvalidInput),
        (RECORD, b" " * (17 << 20), LimitExceeded),
        (RECORD, json.dumps(other).encode(), SchemaMismatch),
    ):
        (folder / WEIGHTS).write_bytes(data)
        (folder / RECORD).write_text(record)
        (folder / name).write_bytes(damaged)
        with pytest.raises(error):
            read_folder(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(NotFound, match=WEIGHTS):
        read_folder(folder)


# What docs/registry.md shows


def snippet_of(name: str) -> str:
    """The piece of code that follows a line which begins with this text."""
    found = re.search(
        rf"^{re.escape(name)}[^\n]*\n(?:[^\n]+\n)*\n```python\n(.*?)^```", PAGE, re.S | re.M
    )
    assert found, name
    return found[1]


# The second without the lines that only the other stem needs.
OF_TORCHVISION = {
    "`mobilenet_v3_small`, trained": card_of("mobilenet_v3_small"),
    "`mobilenet_v3_small`, trained ": card_of("mobilenet_v3_small", stem="imagenet"),
    "`resnet18`:": card_of("resnet18"),
}
PLAIN = {
    "`cnn`, without": card_of("cnn"),
    "`mlp`:": card_of("mlp", hidden=(7, 5)),
    "With fedfleet installed": card_of("vit"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_code_of_the_page_loads_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    card, script = PLAIN[name], tmp_path / "load.py"
    written(tmp_path / "exported", card)
    script.write_text(snippet_of(name))
    assert ("fedfleet" in script.read_text()) == name.startswith("With fedfleet")
    monkeypatch.chdir(tmp_path)

    network = runpy.run_path(str(script))["network"]

    assert not network.training
    check_same(network(images()), card)


def test_code_of_the_page_loads_a_folder_with_torchvision_and_without_fedfleet(
    tmp_path: Path,
) -> None:
    for number, (name, card) in enumerate(OF_TORCHVISION.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        written(folder / "exported", card)
        lines = snippet_of(name.strip()).splitlines()
        if name.endswith(" "):
            lines = [line for line in lines if "stride" not in line and "use_res" not in line]
        (folder / "load.py").write_text(snippet_of("torchvision, for") + "\n".join(lines))
    save_file({"images": images()}, tmp_path / "images.safetensors")

    # In a process of its own: in this one somebody may have made torchvision fit already.
    subprocess.run(
        [sys.executable, "-I", "-c", LOADS, *map(str, range(number + 1))], cwd=tmp_path, check=True
    )

    answers = load_file(tmp_path / "answers.safetensors")
    for number, card in enumerate(OF_TORCHVISION.values()):
        check_same(answers[str(number)], card)


LOADS = """
import os, runpy, sys, torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
images, answers = load_file("images.safetensors")["images"], {}
for folder in sys.argv[1:]:
    os.chdir(folder)
    with torch.no_grad():
        answers[folder] = runpy.run_path("load.py")["network"](images)
    os.chdir("..")
assert not any(name.startswith("fedfleet") for name in sys.modules)
save_file(answers, "answers.safetensors")
"""


def images() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def check_same(answers: torch.Tensor, card: ModelCard) -> None:
    ours = build(card)
    load_state(ours, a_state(card))
    ours.eval()
    with torch.no_grad():
        torch.testing.assert_close(answers, ours(images()))
