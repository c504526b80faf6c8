"""`fedfleet cameras` against a real service that films what `fedfleet cameras demo` has written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from serving import add_key, publish, serving, wait_served, wait_until

from fedfleet.cli.main import main
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet_inference_api.cameras.networks import parse_camera_networks

ALLOWED = {
    "camera_networks": parse_camera_networks("127.0.0.1/32"),
    "camera_ports": frozenset({1}),
}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path / 'state'}") as opened:
        yield opened


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command against a service: its status and what it wrote."""

    def call(client: httpx.Client, *argv: str, key: str = "") -> tuple[int, str, str]:
        environ = {"FEDFLEET_INFERENCE": str(client.base_url), "FEDFLEET_API_KEY": key}
        status = main(("cameras", *argv), environ)
        return status, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "films"
    assert main(("cameras", "demo", str(folder), "--seconds", "2"), {}) == 0
    return folder


def test_demo_is_filmed_listed_and_shown_by_commands_alone(store, demo, tmp_path, run):
    version = publish(store, seed=1)
    with serving(store, cameras=demo / "cameras.toml") as (service, client):
        wait_served(service, version)
        wait_until(lambda: (client.get("/cameras/film").json()["model"] or {}) != {})
        status, listed, _ = run(client, "list")
        _, as_json, _ = run(client, "list", "--json")
        shown, told, _ = run(client, "snapshot", "film", "-o", str(tmp_path / "now.jpg"))

    assert (status, shown) == (0, 0)
    assert re.search(r"film +│ streaming +│ - .*file .*640x360 .*digits 1 .*there", listed)
    assert json.loads(as_json)["cameras"][0]["status"]["state"] == "streaming"
    assert told.startswith(f"{tmp_path / 'now.jpg'}: camera film, ")
    with Image.open(tmp_path / "now.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (640, 360))


def test_camera_is_added_with_a_password_from_a_file_and_removed(store, demo, tmp_path, run):
    (tmp_path / "password").write_text("s3cr3t of the door\nanother line")
    secret = ("--user", "me", "--password-file", str(tmp_path / "password"))
    with serving(store, cameras=demo / "cameras.toml", **ALLOWED) as (service, client):
        added = run(client, "add", "door", "rtsp://127.0.0.1:1/a", *secret, "--fps", "2")
        place = service.station._cameras.camera("door").place
        wait_until(lambda: client.get("/cameras/door").json()["status"]["retry_at_s"] > 0)
        listed = run(client, "list")
        refused = run(client, "add", "shed", "rtsp://10.0.0.1/a")
        removed = run(client, "remove", "door")
        of_the_file = run(client, "remove", "film")
        missing = run(client, "remove", "door")
        left = run(client, "list", "--json")

    assert added[:2] == (
        0,
        "camera door at rtsp://127.0.0.1:1, forgotten when the service stops\n",
    )
    assert (place.user, place.password.reveal()) == ("me", "s3cr3t of the door")
    assert re.search(
        r"door +│ (backoff|connecting) +│ connection_refused │ [\d:]+ UTC +│", listed[1]
    ), listed[1]
    assert refused[0] == 1
    assert refused[2].startswith("fedfleet: CAMERA_INVALID: ")
    assert removed[:2] == (0, "camera door is removed\n")
    assert "it is back after a restart" in of_the_file[1]
    assert missing[2] == "fedfleet: NOT_FOUND: there is no camera 'door'\n"
    assert json.loads(left[1])["cameras"] == []
    assert "s3cr3t" not in str((added, listed, removed))


def test_commands_send_the_key_of_the_environment_or_say_which_is_missing(store, run):
    key = add_key(store, "cameras:read")
    with serving(store, rest_auth="on") as (_, client):
        without = run(client, "list")
        listed = run(client, "list", key=key.text)
        refused = run(client, "add", "door", "rtsp://127.0.0.1:1/a", key=key.text)

    assert (without[0], refused[0], listed[0]) == (1, 1, 0)
    assert "set FEDFLEET_API_KEY" in without[2]
    assert "cameras:read" in without[2]
    assert "none yet: `fedfleet cameras add`" in listed[1]
    assert "cameras:admin" in refused[2]


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("add", "door", "rtsp://127.0.0.1/a", "--password-file", "no-such"), "DATA_MISSING"),
        (("add", "door", "rtsp://me:s3cr3t@127.0.0.1/a"), "SETTING_INVALID"),
        (("demo", "{own}"), "SETTING_INVALID"),
        (("snapshot", "door", "-o", "x.jpg", "--inference", "ftp://a"), "SETTING_INVALID"),
    ],
)
def test_what_is_wrong_is_one_line_and_changes_nothing(tmp_path, capsys, argv, code):
    (tmp_path / "cameras.toml").write_text("# mine\n")

    status = main(("cameras", *(word.format(own=tmp_path) for word in argv)), {})

    assert status == 1
    assert capsys.readouterr().err.startswith(f"fedfleet: {code}: ")
    assert (tmp_path / "cameras.toml").read_text() == "# mine\n"
    assert not (tmp_path / "shapes.mp4").exists()


def test_demo_without_pyav_names_the_extra(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['av'] = None  # as if it were not installed\n"
        "from fedfleet.cli.main import main\n"
        "sys.exit(main(['cameras', 'demo', sys.argv[1]], {}))\n"
    )

    command = [sys.executable, "-c", code, str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("fedfleet: NOT_INSTALLED: ")
    assert "pip install '.[inference]'" in done.stderr
    assert not (tmp_path / "demo").exists()
