"""What comes out of cameras, over real HTTP and WebSockets, of a camera that plays a file."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from serving import add_key, publish, serving, wait_served, wait_until
from video import write_video
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from fedfleet.identity.authority import Authority
from fedfleet.identity.files import write_private, write_public
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet_inference_api.cameras.networks import parse_camera_networks
from fedfleet_inference_api.cameras.seen import CameraEvent
from fedfleet_inference_api.service import InferenceService

PATIENCE_S = 30.0
LOCAL = parse_camera_networks("127.0.0.1/32")
WIDTH, HEIGHT = 160, 120
Serving = tuple[InferenceService, httpx.Client]


@pytest.fixture(scope="module")
def cameras(tmp_path_factory) -> Path:
    """A file with one camera: a light square that crosses a dark yard."""
    folder = tmp_path_factory.mktemp("cameras")
    frames = []
    for number in range(40):
        frame = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
        frame[40:80, 3 * number : 3 * number + 40] = 220
        frames.append(frame)
    write_video(folder / "yard.mp4", frames, fps=20)
    zone = '{name = "door", points = [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]}'
    (folder / "cameras.toml").write_text(
        f'[[camera]]\nname = "yard"\nurl = "file:yard.mp4"\nfps = 20\nscore = 0\nzones = [{zone}]\n'
    )
    return folder / "cameras.toml"


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path / 'state'}") as opened:
        yield opened


@pytest.fixture(scope="module")
def filmed(tmp_path_factory, cameras) -> Iterator[Serving]:
    """A service with the camera and a version that looks, for tests that leave it as it is."""
    with open_store(f"sqlite:{tmp_path_factory.mktemp('filmed')}") as store:
        version = publish(store, seed=1)
        with serving(store, cameras=cameras, camera_viewers=3, camera_viewers_each=3) as (
            service,
            client,
        ):
            wait_served(service, version)
            wait_until(lambda: seen_by(client) == 1)
            yield service, client


def seen_by(client: httpx.Client) -> int | None:
    """The version that looked at the camera last."""
    model = client.get("/cameras/yard").json()["model"]
    return None if model is None else int(model["version"])


class Live:
    """The pictures of a live view, while somebody holds it: a response that is let go is closed."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._pieces = response.iter_raw()
        self._data = b""

    def next(self) -> bytes:
        while True:
            head, _, rest = self._data.partition(b"\r\n\r\n")
            length = int(head.rpartition(b"content-length: ")[2]) if rest else 0
            if 0 < length <= len(rest):
                self._data = rest[length:]
                return rest[:length]
            self._data += next(self._pieces)


def blocks(response: httpx.Response) -> Iterator[dict[str, str]]:
    """The fields of each event as they stand; comments are passed over."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if not line and "data" in fields:
            yield fields
        if not line:
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


def told(response: httpx.Response, count: int) -> list[dict[str, object]]:
    found = []
    for block in blocks(response):
        event = json.loads(block["data"])
        assert (block["id"], block["event"]) == (str(event["id"]), event["kind"])
        found.append(event)
        if len(found) == count:
            return found
    raise AssertionError(f"the stream ended after {found}")


def publish_event(service: InferenceService, number: int, **fields: str) -> int:
    values = {"camera": "yard", "kind": "test", **fields}
    event = CameraEvent(at_s=time.time(), fields={"number": number}, **values)
    return service.station.hub.publish(event).event_id


def socket_url(client: httpx.Client, query: str = "") -> str:
    return f"ws://{client.base_url.netloc.decode()}/events/ws{query}"


@contextmanager
def talking(client: httpx.Client, query: str = "", **options: object) -> Iterator[ClientConnection]:
    with connect(socket_url(client, query), proxy=None, **options) as socket:
        yield socket


# Cameras.


def test_cameras_are_listed_with_their_state_and_without_where_they_are(filmed, cameras):
    _, client = filmed

    (camera,) = client.get("/cameras").json()["cameras"]

    assert camera["name"] == "yard"
    assert camera["address"] == "file"
    assert str(cameras.parent) not in json.dumps(camera)
    assert (camera["status"]["state"], camera["status"]["code"]) == ("streaming", "")
    assert (camera["status"]["width"], camera["status"]["height"]) == (WIDTH, HEIGHT)
    assert camera["zones"][0]["name"] == "door"
    assert camera["model"]["name"] == "digits"
    assert client.get("/cameras/yard").json().keys() == camera.keys()


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("path", ["", "/snapshot.jpg", "/stream.mjpg"])
def test_camera_that_is_not_there_is_not_found(filmed, method, path):
    response = filmed[1].request(method, f"/cameras/nowhere{path}")

    expected = (404, "NOT_FOUND") if method == "GET" or not path else (405, "METHOD_NOT_ALLOWED")
    assert (response.status_code, response.json()["error"]["code"]) == expected


def test_snapshot_is_drawn_or_raw_and_says_which_frame_it_is(filmed):
    _, client = filmed

    drawn = client.get("/cameras/yard/snapshot.jpg")
    raw = client.get("/cameras/yard/snapshot.jpg", params={"raw": 1})
    small = client.get("/cameras/yard/snapshot.jpg", params={"width": 80})
    sizes = []
    for response in (drawn, raw, small):
        assert response.headers["content-type"] == "image/jpeg"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert int(response.headers["x-frame"]) > 0
        with Image.open(io.BytesIO(response.content)) as image:
            sizes.append(image.size)
            corner = image.convert("L").getpixel((image.width // 2, image.height - 4))
        assert (corner > 60) is False or response is not raw  # no caption on the raw one

    assert sizes == [(WIDTH, HEIGHT), (WIDTH, HEIGHT), (80, 60)]
    assert client.get("/cameras/yard/snapshot.jpg", params={"width": 1}).status_code == 400


def test_live_view_is_a_stream_of_jpegs_at_its_pace(filmed):
    _, client = filmed
    with client.stream("GET", "/cameras/yard/stream.mjpg") as response:
        assert response.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
        begun_s = time.monotonic()
        live = Live(response)
        pictures = [live.next() for _ in range(8)]
        took_s = time.monotonic() - begun_s

    assert len(set(pictures)) == 8
    assert took_s > 0.6  # ten a second, of a camera that has twenty
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as image:
            assert (image.format, image.size) == ("JPEG", (WIDTH, HEIGHT))


def test_viewers_are_bounded_and_leave_when_their_callers_do(filmed):
    service, client = filmed
    path = "/cameras/yard/stream.mjpg"
    with ExitStack() as stack:
        held = [Live(stack.enter_context(client.stream("GET", path))) for _ in range(3)]
        assert all(live.next() for live in held)
        one_more = client.get(path)
        assert "camera_viewers 3.0" in client.get("/metrics").text
    wait_until(lambda: service.station.viewers.viewers == 0)

    assert (one_more.status_code, one_more.json()["error"]["code"]) == (503, "UNAVAILABLE")
    assert one_more.headers["retry-after"] == "1"
    with client.stream("GET", path) as response:
        assert Live(response).next()


@pytest.mark.parametrize(
    ("content", "content_type", "code"),
    [
        (b'{"name": "door", "url": "rtsp://10.0.0.1/a"}', "application/json", "CAMERA_INVALID"),
        (b'{"name": "door", "url": "rtsp://10.0.0.1/a"}', "text/plain", "INVALID_INPUT"),
        (b"{", "application/json", "INVALID_INPUT"),
        (b"[" * 50_000, "application/json", "INVALID_INPUT"),
        (b"[]", "application/json", "CAMERA_INVALID"),
        (b" " * 70_000, "application/json", "INVALID_INPUT"),
        (b'{"name": "door", "url": "file:/etc/passwd"}', "application/json", "CAMERA_INVALID"),
    ],
)
def test_cameras_are_added_by_callers_only_where_the_settings_let_them(
    filmed, content, content_type, code
):
    headers = {"content-type": content_type}

    response = filmed[1].post("/cameras", content=content, headers=headers)

    assert (response.status_code, response.json()["error"]["code"]) == (400, code)


def test_camera_is_added_and_removed_by_a_caller_and_its_password_is_never_shown(store):
    secret = "s3cr3t-of-the-door"
    body = {"name": "door", "url": "rtsp://127.0.0.1:8554/door", "user": "me", "password": secret}
    with serving(store, camera_networks=LOCAL) as (service, client):
        events: list[CameraEvent] = []
        service.station.hub.listen(lambda event, text: events.append(event))
        added = client.post("/cameras", json=body)
        again = client.post("/cameras", json=body)
        elsewhere = client.post("/cameras", json={**body, "name": "x", "url": "rtsp://10.1.1.1/"})
        wait_until(lambda: client.get("/cameras/door").json()["status"]["code"] != "")
        shown = client.get("/cameras").text
        pictures = client.get("/cameras/door/stream.mjpg")
        removed = client.delete("/cameras/door")
        after = client.get("/cameras/door")
        metrics = client.get("/metrics").text

    assert (added.status_code, added.json()["address"]) == (201, "rtsp://127.0.0.1:8554")
    assert (again.status_code, again.json()["error"]["code"]) == (400, "CAMERA_INVALID")
    assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (400, "CAMERA_INVALID")
    assert (removed.status_code, after.status_code) == (204, 404)
    assert (pictures.status_code, pictures.json()["error"]["code"]) == (503, "UNAVAILABLE")
    assert re.search(r"it is (backoff|connecting) \(connection_refused\)", pictures.text)
    assert any(event.fields.get("code") == "connection_refused" for event in events)
    for text in (added.text, again.text, shown, pictures.text, metrics, str(events)):
        assert secret not in text


def test_service_without_cameras_starts_nothing_for_them(tmp_path):
    code = (
        "import sys, threading\n"
        "from fedfleet.store.open import open_store\n"
        "from fedfleet_inference_api.config import InferenceConfig\n"
        "from fedfleet_inference_api.service import InferenceService\n"
        "from fedfleet_inference_api.signature_check import SignatureCheck\n"
        "from fedfleet_inference_api.app import create_app\n"
        "with open_store(sys.argv[1]) as store:\n"
        "    service = InferenceService(InferenceConfig(), store, SignatureCheck('none', ''))\n"
        "    create_app(service)\n"
        "    service.station.start()\n"
        "    names = [thread.name for thread in threading.enumerate()]\n"
        "    service.station.stop()\n"
        "    service.predictor.close()\n"
        "loaded = {'av', 'paho'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "assert not [name for name in names if 'camera' in name or 'paho' in name], names\n"
    )
    command = [sys.executable, "-c", code, f"sqlite:{tmp_path}"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


# Events.


def test_events_are_told_as_they_happen_with_the_version_that_saw_them(filmed):
    service, client = filmed
    with client.stream("GET", "/events", params={"kind": "classified", "last": 1}) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        (event,) = told(response, 1)

    assert event["camera"] == "yard"
    assert event["model"] == {
        "name": "digits",
        "version": 1,
        "round": 1,
        "digest": service.served().record.digest,
    }
    top5 = event["fields"]["top5"]
    assert len(top5) == 5
    assert all(0 <= one["probability"] <= 1 for one in top5)


def test_reader_goes_on_where_it_stopped_and_filters(filmed):
    service, client = filmed
    ids = [publish_event(service, number, kind="rolled_back") for number in range(6)]
    publish_event(service, 6, kind="version_refused")
    publish_event(service, 7, camera="hall", kind="rolled_back")  # it was removed meanwhile

    def read(count: int, headers: dict[str, str] | None = None, **query: object) -> list[object]:
        with client.stream("GET", "/events", params=query, headers=headers) as response:
            return [event["fields"]["number"] for event in told(response, count)]

    assert read(3, kind="rolled_back", after=ids[2]) == [3, 4, 5]
    resumed = {"last-event-id": str(ids[3])}
    assert read(2, resumed, kind="rolled_back", after=ids[0]) == [4, 5]
    assert read(2, kind=["rolled_back", "version_refused"], camera="yard", last=2) == [5, 6]
    assert read(1, camera="hall", after=ids[5]) == [7]


REFUSED_FILTERS = [
    ({"kind": "clasified"}, 400, "INVALID_INPUT", "did you mean 'classified'?"),
    ({"kind": ["state", "foo"]}, 400, "INVALID_INPUT", "kind = 'foo'"),
    ({"camera": "yart"}, 404, "NOT_FOUND", "did you mean 'yard'?"),
    ({"camera": ["yard", "nope"]}, 404, "NOT_FOUND", "allowed: yard"),
]


@pytest.mark.parametrize(("query", "status", "code", "hint"), REFUSED_FILTERS)
def test_filter_by_which_nothing_would_ever_be_told_is_refused(filmed, query, status, code, hint):
    _, client = filmed

    response = client.get("/events", params=query)
    with pytest.raises(InvalidStatus) as refused, talking(client, f"?{httpx.QueryParams(query)}"):
        pass

    by_socket = refused.value.response
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert hint in response.json()["error"]["message"]
    assert (by_socket.status_code, json.loads(by_socket.body)) == (status, response.json())


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ({"after": "x"}, {}),
        ({"after": -1}, {}),
        ({"after": 10**20}, {}),
        ({"last": 1001}, {}),
        ({"kind": ["x"] * 65}, {}),
        ({}, {"last-event-id": "NaN"}),
    ],
)
def test_reader_that_asks_for_what_is_not_there_is_told_so(filmed, query, headers):
    response = filmed[1].get("/events", params=query, headers=headers)

    assert (response.status_code, response.json()["error"]["code"]) == (400, "INVALID_INPUT")


def test_new_version_and_its_way_back_are_events(store):
    first = publish(store, seed=1)
    with serving(store) as (service, client):
        wait_served(service, first)
        second = publish(store, seed=2)
        wait_served(service, second)
        assert client.post("/served/rollback").status_code == 200
        wanted = {"kind": ["version_served", "rolled_back", "version_refused"], "after": 0}
        with client.stream("GET", "/events", params=wanted) as response:
            events = told(response, 4)
        counted = client.get("/metrics").text

    assert [(event["kind"], event["model"]["version"]) for event in events] == [
        ("version_served", 1),
        ("version_served", 2),
        ("rolled_back", 1),
        ("version_served", 1),
    ]
    assert events[2]["fields"] == {"name": "digits", "version": 2}
    assert 'fedfleet_inference_events_total{kind="rolled_back"} 1.0' in counted


def test_slow_reader_of_a_socket_hears_what_it_lost(store):
    with serving(store) as (service, client):
        first = publish_event(service, 0)
        for number in range(1, 1200):
            publish_event(service, number)
        with talking(client, f"?after={first}", close_timeout=0.1) as socket:
            gap, oldest = json.loads(socket.recv(PATIENCE_S)), json.loads(socket.recv(PATIENCE_S))

    assert (gap["kind"], gap["fields"]) == ("gap", {"lost": 199})
    assert oldest["fields"]["number"] == 200


def test_socket_tells_events_with_filters_and_names_its_protocol(filmed):
    service, client = filmed
    begun = publish_event(service, 0)
    for number in range(1, 4):
        publish_event(service, number, kind="rolled_back" if number == 2 else "test")
    with talking(
        client, f"?kind=rolled_back&after={begun}", subprotocols=["fedfleet.v1"]
    ) as socket:
        assert socket.subprotocol == "fedfleet.v1"
        event = json.loads(socket.recv(PATIENCE_S))

    assert (event["kind"], event["fields"]) == ("rolled_back", {"number": 2})


@pytest.mark.parametrize("query", ["?after=x", "?last=-1", "?" + "&".join(["kind=x"] * 65)])
def test_socket_that_asks_for_what_is_not_there_gets_an_ordinary_answer(filmed, query):
    with pytest.raises(InvalidStatus) as refused, talking(filmed[1], query):
        pass

    assert refused.value.response.status_code == 400
    assert json.loads(refused.value.response.body)["error"]["code"] == "INVALID_INPUT"


def test_readers_are_bounded_together(store):
    with serving(store, event_readers=2) as (service, client), ExitStack() as stack:
        stack.enter_context(client.stream("GET", "/events"))
        stack.enter_context(talking(client))
        wait_until(lambda: service.station.hub.readers == 2)
        one_more = client.get("/events")
        with pytest.raises(InvalidStatus) as refused, talking(client):
            pass

    assert (one_more.status_code, one_more.json()["error"]["code"]) == (503, "UNAVAILABLE")
    assert refused.value.response.status_code == 503


# The end.


def test_open_streams_end_when_a_key_is_revoked(store, cameras):
    publish(store, seed=1)
    made = add_key(store, "cameras:read")
    with serving(store, cameras=cameras, rest_auth="on", rate_per_s=0.0) as (service, client):
        headers = {"x-api-key": made.text}
        wait_until(lambda: client.get("/cameras", headers=headers).status_code == 200)
        with ExitStack() as stack:
            live = stack.enter_context(
                client.stream("GET", "/cameras/yard/stream.mjpg", headers=headers)
            )
            events = stack.enter_context(client.stream("GET", "/events", headers=headers))
            socket = stack.enter_context(talking(client, additional_headers=headers))
            wait_until(lambda: service.station.hub.readers == 2)
            store.access.delete_key(made.id)
            for _ in live.iter_raw():
                pass
            for _ in events.iter_raw():
                pass
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    socket.recv(PATIENCE_S)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


def test_sigterm_ends_open_streams_at_once(tmp_path, cameras):
    with open_store(f"sqlite:{tmp_path / 'state'}") as store:
        publish(store, seed=1)
    settings = {
        "FEDFLEET_STORE": f"sqlite:{tmp_path / 'state'}",
        "FEDFLEET_SIGNER": "none",
        "FEDFLEET_THREADS": "1",
        "FEDFLEET_BACKEND": "torch",
        "FEDFLEET_INFERENCE_PORT": "0",
        "FEDFLEET_CAMERAS": str(cameras),
    }
    command = [sys.executable, "-m", "fedfleet_inference_api"]
    with subprocess.Popen(
        command, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True
    ) as child:
        timer = threading.Timer(PATIENCE_S, child.kill)  # its log must not be read for ever
        timer.start()
        assert child.stderr is not None
        records = (json.loads(line) for line in child.stderr)
        port = next(record["port"] for record in records if record["event"] == "listening")
        log: list[dict[str, object]] = []
        drained = threading.Thread(target=lambda: log.extend(records))
        drained.start()
        url = f"http://127.0.0.1:{port}"
        with ExitStack() as stack:
            client = stack.enter_context(
                httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False)
            )
            wait_until(lambda: client.get("/cameras/yard/snapshot.jpg").status_code == 200)
            live = [
                stack.enter_context(client.stream("GET", "/cameras/yard/stream.mjpg"))
                for _ in range(3)
            ]
            events = stack.enter_context(client.stream("GET", "/events"))
            socket = stack.enter_context(talking(client))
            Live(live[0]).next()  # the other two do not read

            asked_s = time.monotonic()
            child.send_signal(signal.SIGTERM)
            events.read()
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    socket.recv(PATIENCE_S)
            ended_s = time.monotonic() - asked_s
            status = child.wait(PATIENCE_S)
        timer.cancel()
        drained.join()

    assert status == 0
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    assert ended_s < 1.0
    # The rest of a process's end is Python's own, and takes what the machine has left for it.
    times = {str(record["event"]): read_time(str(record["time"])) for record in log}
    assert times["stopped"] - times["stopping"] < 2.0


def read_time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_streams_and_sockets_go_over_tls_too(store, cameras, tmp_path):
    made = Authority.open(tmp_path / "ca").issue_server(["127.0.0.1"], time.time(), 3600.0)
    write_private(tmp_path / "key.pem", made.key)
    write_public(tmp_path / "certificate.pem", made.chain + made.root)
    settings = {
        "cameras": cameras,
        "inference_certificate": tmp_path / "certificate.pem",
        "inference_key": tmp_path / "key.pem",
    }
    trusted = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
    with serving(store, **settings) as (service, client), ExitStack() as stack:
        live = Live(stack.enter_context(client.stream("GET", "/cameras/yard/stream.mjpg")))
        assert live.next() != live.next()
        url = socket_url(client).replace("ws:", "wss:")
        with connect(url, proxy=None, ssl=trusted) as socket:
            publish_event(service, 7, kind="test")
            while json.loads(socket.recv(PATIENCE_S))["kind"] != "test":
                pass
