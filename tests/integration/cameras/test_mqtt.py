"""Events at a real broker (Debian's mosquitto)."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from serving import publish, serving, wait_served, wait_until

from fedfleet.errors import CertificateInvalid, InsecureAddress, SettingInvalid
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet_inference_api.cameras.mqtt import Mqtt, parse_broker
from fedfleet_inference_api.cameras.networks import parse_camera_networks
from fedfleet_inference_api.cameras.seen import CameraEvent
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.metrics import Metrics

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto here (Debian's package)")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def broker(folder: Path, port: int, *lines: str) -> Iterator[None]:
    """A broker that forgets all when it ends."""
    path = folder / "mosquitto.conf"
    path.write_text("\n".join([f"listener {port} 127.0.0.1", *lines]) + "\n")
    path.chmod(0o644)
    assert MOSQUITTO is not None
    with subprocess.Popen([MOSQUITTO, "-c", str(path)], stderr=subprocess.DEVNULL) as child:
        try:
            wait_until(lambda: is_open(port))
            yield
        finally:
            child.terminate()


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Listener:
    """Somebody else at the broker; hears all topics."""

    def __init__(self, port: int, user: str = "", password: str = "") -> None:
        self.heard: list[tuple[str, str, bool, int]] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        if user:
            self._client.username_pw_set(user, password)
        self._client.on_connect = lambda client, *rest: client.subscribe("#", qos=1)
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *rest: subscribed.set()
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(30)

    def _take(self, client: Any, data: Any, message: paho.MQTTMessage) -> None:
        self.heard.append(
            (message.topic, message.payload.decode(), bool(message.retain), message.qos)
        )

    def wait(self, condition: Callable[[str, str], bool]) -> tuple[str, str, bool, int]:
        def found() -> list[tuple[str, str, bool, int]]:
            return [one for one in self.heard if condition(one[0], one[1])]

        wait_until(lambda: bool(found()))
        return found()[0]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def listening(port: int, **options: str) -> Iterator[Listener]:
    listener = Listener(port, **options)
    try:
        yield listener
    finally:
        listener.close()


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path / 'state'}") as opened:
        yield opened


def event(kind: str, **fields: object) -> CameraEvent:
    return CameraEvent(camera="yard/1", at_s=1.0, kind=kind, fields=fields)


@needs_broker
def test_events_states_and_the_services_own_state_reach_a_broker(store, tmp_path):
    port = free_port()
    password = "p:a ss"
    (tmp_path / "credentials").write_text(f"fleet:{password}\n")
    (tmp_path / "credentials").chmod(0o600)
    users = tmp_path / "users"
    command = ["mosquitto_passwd", "-b", "-c", str(users), "fleet", password]
    if shutil.which(command[0]) is None:
        pytest.skip("no mosquitto_passwd here")
    subprocess.run(command, check=True)
    users.chmod(0o644)
    version = publish(store, seed=1)
    settings = {
        "mqtt": f"mqtt://127.0.0.1:{port}/home/fleet/",
        "mqtt_credentials": tmp_path / "credentials",
    }
    allow = ("allow_anonymous false", f"password_file {users}", "user root")
    with (
        broker(tmp_path, port, *allow),
        listening(port, user="fleet", password=password) as listener,
    ):
        with serving(store, **settings) as (service, _):
            wait_served(service, version)
            online = listener.wait(lambda topic, text: text == "online")
            served = listener.wait(lambda topic, text: "version_served" in topic)
            service.station.tell(event("track_started", label="cat"))
            service.station.tell(event("state", state="streaming", code=""))
            told = listener.wait(lambda topic, text: "track_started" in topic)
            listener.wait(lambda topic, text: topic.endswith("/state"))
        listener.wait(lambda topic, text: text == "offline")
        with listening(port, user="fleet", password=password) as late:
            status = late.wait(lambda topic, text: topic == "home/fleet/status")
            state = late.wait(lambda topic, text: topic.endswith("/state"))
            kept = len(late.heard)

    assert online[0] == "home/fleet/status"
    assert served[0] == "home/fleet/events/-/version_served"
    assert (told[0], told[3]) == ("home/fleet/events/yard%2F1/track_started", 1)
    assert json.loads(told[1])["fields"] == {"label": "cat"}
    assert status[1:3] == ("offline", True)
    assert state[:3] == (
        "home/fleet/cameras/yard%2F1/state",
        '{"state": "streaming", "code": ""}',
        True,
    )
    assert kept == 2  # events are not retained


@needs_broker
def test_broker_that_comes_late_or_again_gets_what_waited_and_the_last_will(tmp_path):
    port = free_port()
    metrics = Metrics()
    config = InferenceConfig(mqtt=f"mqtt://127.0.0.1:{port}")
    sender = Mqtt(config, metrics, most_waiting=5)
    sender.start()
    try:
        sender.send(event("state", state="streaming", code=""), "{}")
        for number in range(8):
            sender.send(event("test"), str(number))
        lost = metrics.mqtt_lost._value.get()
        with broker(tmp_path, port, "allow_anonymous true"), listening(port) as listener:
            for number in range(3):
                listener.wait(lambda topic, text, number=number: text == str(number))
            listener.wait(lambda topic, text: topic == "fedfleet/status" and text == "online")
        with broker(tmp_path, port, "allow_anonymous true"), listening(port) as listener:
            listener.wait(lambda topic, text: topic == "fedfleet/status" and text == "online")
            listener.wait(lambda topic, text: topic.endswith("/state"))
            sender.send(event("test"), "again")
            listener.wait(lambda topic, text: text == "again")
            sender._client._sock_close()  # as if the process had been killed
            listener.wait(lambda topic, text: topic == "fedfleet/status" and text == "offline")
    finally:
        sender.stop()

    assert lost == 4.0  # of nine events five may wait; a state waits nowhere


@needs_broker
def test_broker_that_was_away_keeps_the_newest_states_and_none_of_a_removed_camera(tmp_path):
    port = free_port()
    kept = ("allow_anonymous true", "user root", "persistence true")
    lines = (*kept, f"persistence_location {tmp_path}/")
    metrics = Metrics()
    sender = Mqtt(InferenceConfig(mqtt=f"mqtt://127.0.0.1:{port}"), metrics, most_waiting=5)
    sender.start()

    def tell(camera: str, state: str) -> None:
        fields = {"state": state}
        sender.send(CameraEvent(camera=camera, at_s=1.0, kind="state", fields=fields), state)

    try:
        with broker(tmp_path, port, *lines), listening(port) as listener:
            listener.wait(lambda topic, text: text == "online")
            for camera in ("yard", "gone", "gone-meanwhile"):
                tell(camera, "streaming")
                listener.wait(lambda topic, text, camera=camera: f"cameras/{camera}/" in topic)
            sender.forget("gone")
            listener.wait(lambda topic, text: "cameras/gone/" in topic and not text)
        wait_until(lambda: not sender._is_connected)
        tell("yard", "stalled")
        for number in range(3):
            sender.send(event("test"), str(number))
        sender.forget("gone-meanwhile")
        tell("yard", "backoff")
        tell("yard", "stopped")
        assert metrics.mqtt_lost._value.get() == 1.0, "six events; five may wait"
        with broker(tmp_path, port, *lines), listening(port) as listener:
            listener.wait(lambda topic, text: topic == "fedfleet/events/yard/state")
            listener.wait(lambda topic, text: text == "backoff")  # the last that waited
            with listening(port) as late:
                late.wait(lambda topic, text: topic == "fedfleet/status")
                wait_until(lambda: len(late.heard) >= 2)
                states = {topic: text for topic, text, *_ in late.heard if "cameras" in topic}
    finally:
        sender.stop()

    assert states == {"fedfleet/cameras/yard/state": '{"state": "stopped"}'}


@needs_broker
def test_camera_that_is_removed_leaves_no_state_at_the_broker(store, tmp_path):
    port = free_port()
    settings = {
        "mqtt": f"mqtt://127.0.0.1:{port}",
        "camera_networks": parse_camera_networks("127.0.0.1"),
    }
    with (
        broker(tmp_path, port, "allow_anonymous true"),
        listening(port) as listener,
        serving(store, **settings) as (_, client),
    ):
        listener.wait(lambda topic, text: text == "online")
        body = {"name": "door", "url": "rtsp://127.0.0.1:554/"}
        assert client.post("/cameras", json=body).status_code == 201
        listener.wait(
            lambda topic, text: topic.endswith("cameras/door/state") and "backoff" in text
        )
        assert client.delete("/cameras/door").status_code == 204
        listener.wait(lambda topic, text: topic.endswith("cameras/door/state") and not text)
        with listening(port) as late:
            late.wait(lambda topic, text: topic.endswith("/status"))
            assert not any("cameras" in topic for topic, *_ in late.heard)


def test_service_stops_at_once_where_the_broker_never_came(store):
    with serving(store, mqtt=f"mqtt://127.0.0.1:{free_port()}/x") as (service, client):
        service.station.tell(event("test"))
        assert client.get("/livez").status_code == 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mqtt://broker.lan", ("broker.lan", 1883, "fedfleet", False)),
        ("mqtts://broker.lan/a/b/", ("broker.lan", 8883, "a/b", True)),
        ("mqtt://[::1]:99/x", ("::1", 99, "x", False)),
    ],
)
def test_broker_is_read_from_its_address(text, expected):
    assert dataclasses.astuple(parse_broker(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "broker.lan",
        "http://broker.lan",
        "mqtt://",
        "mqtt://broker:x/y",
        "mqtt://[/y",
        "mqtt://me:secret@broker.lan/x",
        "mqtt://broker.lan/a/+/b",
        "mqtt://broker.lan/a?b",
    ],
)
def test_address_that_cannot_be_used_is_refused_without_being_shown(text):
    with pytest.raises(SettingInvalid) as refused:
        parse_broker(text)

    assert "secret" not in refused.value.message


def test_credentials_are_kept_to_this_service_and_to_encrypted_ways(tmp_path):
    path = tmp_path / "credentials"
    path.write_text("me:secret")
    path.chmod(0o600)
    far = InferenceConfig(mqtt="mqtt://broker.lan/x", mqtt_credentials=path)
    near = InferenceConfig(mqtt="mqtt://127.0.0.1/x", mqtt_credentials=path)

    Mqtt(near, Metrics())
    with pytest.raises(InsecureAddress, match="the MQTT broker"):
        Mqtt(far, Metrics())
    path.write_text("no colon")
    with pytest.raises(SettingInvalid, match="USER:PASSWORD"):
        Mqtt(near, Metrics())
    path.chmod(0o644)
    with pytest.raises(CertificateInvalid):
        Mqtt(near, Metrics())
