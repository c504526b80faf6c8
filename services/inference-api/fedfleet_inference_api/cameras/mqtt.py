"""Sends events to an MQTT broker, for those who run one; nothing waits for it."""

from __future__ import annotations

import json
import logging
import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from fedfleet.errors import SettingInvalid
from fedfleet.identity.files import read_private
from fedfleet.rpc.exposure import check_exposure
from fedfleet_inference_api.cameras.seen import CameraEvent
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.metrics import Metrics

logger = logging.getLogger(__name__)

PORT, TLS_PORT = 1883, 8883
AT_LEAST_ONCE = 1
MOST_WAITING = 1000
MOST_GONE = 256
KEEP_ALIVE_S = 30
FIRST_RETRY_S, LONGEST_RETRY_S = 1, 60
CONNECT_S = 2.0
FAREWELL_S = 1.0
ONLINE, OFFLINE = "online", "offline"


@dataclass(frozen=True, kw_only=True)
class Broker:
    """Where events are sent.

    Args:
        prefix: of all topics, without a slash at its ends.
    """

    host: str
    port: int
    prefix: str
    is_encrypted: bool


def parse_broker(text: str) -> Broker:
    """Parse ``mqtt://HOST:PORT/PREFIX`` or ``mqtts://``.

    Raises:
        SettingInvalid: it is something else, or holds credentials.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    prefix = parts.path.strip("/") if host else ""
    if not host or parts.scheme not in ("mqtt", "mqtts") or parts.query or parts.fragment:
        raise SettingInvalid("FEDFLEET_MQTT: must be mqtt://HOST:PORT/PREFIX or mqtts://")
    if "@" in parts.netloc:
        raise SettingInvalid(
            "FEDFLEET_MQTT: holds credentials: put USER:PASSWORD into a file, and name it in "
            "FEDFLEET_MQTT_CREDENTIALS"
        )
    if re.search(r"[#+\0]", prefix) or len(prefix) > 200:
        raise SettingInvalid("FEDFLEET_MQTT: the prefix must be a topic without + and #")
    is_encrypted = parts.scheme == "mqtts"
    return Broker(
        host=host,
        port=port or (TLS_PORT if is_encrypted else PORT),
        prefix=prefix or "fedfleet",
        is_encrypted=is_encrypted,
    )


class Mqtt:
    """Sends each event with QoS 1 to ``PREFIX/events/CAMERA/KIND``; those of the model have ``-``
    for a camera.

    ``PREFIX/status`` says ``online``, retained, and by the last will ``offline``;
    ``PREFIX/cameras/CAMERA/state`` is the camera's last state, retained until it is removed.

    Events that come while the broker is away wait, a bounded number of them; then the newest are
    lost and counted. The library connects again by itself, ever more rarely.

    Raises:
        SettingInvalid: the address or the files of the settings cannot be used.
        InsecureAddress: credentials would go over a network as they are.
    """

    def __init__(
        self, config: InferenceConfig, metrics: Metrics, *, most_waiting: int = MOST_WAITING
    ) -> None:
        self._broker = parse_broker(config.mqtt)
        self._metrics = metrics
        self._is_connected = False
        # By topic, of each camera; empty: it was removed since the broker came last.
        self._states: dict[str, str] = {}
        self._telling = threading.Lock()  # so that the broker hears states in their order
        client = paho.Client(
            CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311, reconnect_on_failure=True
        )
        client.max_queued_messages_set(most_waiting)
        client.reconnect_delay_set(FIRST_RETRY_S, LONGEST_RETRY_S)
        client.will_set(self._topic("status"), OFFLINE, qos=AT_LEAST_ONCE, retain=True)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_connect_fail = self._not_reached
        if config.mqtt_credentials is not None:
            if not self._broker.is_encrypted:
                check_exposure(self._broker.host, config.insecure, "the MQTT broker")
            client.username_pw_set(*_credentials(config.mqtt_credentials))
        if self._broker.is_encrypted:
            _trust(client, config.mqtt_ca)
        client.connect_timeout = CONNECT_S
        self._client = client

    def start(self) -> None:
        """Connect in the background, and again whenever the connection is lost."""
        self._client.connect_async(self._broker.host, self._broker.port, KEEP_ALIVE_S)
        self._client.loop_start()

    def stop(self) -> None:
        """Say good-bye where the broker is there, and end the thread."""
        if self._is_connected:
            farewell = self._client.publish(self._topic("status"), OFFLINE, AT_LEAST_ONCE, True)
            with suppress(ValueError, RuntimeError):  # the queue is full; it went meanwhile
                farewell.wait_for_publish(FAREWELL_S)
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, event: CameraEvent, text: str) -> None:
        """Send an event; returns at once, from any thread."""
        camera = quote(event.camera, safe="") or "-"
        sent = self._client.publish(
            self._topic("events", camera, event.kind), text, AT_LEAST_ONCE, False
        )
        if sent.rc == paho.MQTT_ERR_QUEUE_SIZE:
            self._metrics.mqtt_lost.inc()
        if event.kind == "state":
            self._keep(event.camera, json.dumps(dict(event.fields), allow_nan=False))

    def forget(self, camera: str) -> None:
        """A camera was removed: the broker is to keep no state of it."""
        self._keep(camera, "")

    def _keep(self, camera: str, state: str) -> None:
        """Have the broker keep a state, now or when it is there.

        States never wait in the queue: an older one would come out of it last, where the newest
        had found no room.
        """
        topic = self._topic("cameras", quote(camera, safe=""), "state")
        with self._telling:
            self._states[topic] = state
            gone = [topic for topic, state in self._states.items() if not state]
            for old in gone[:-MOST_GONE]:
                del self._states[old]
            if self._is_connected:
                self._client.publish(topic, state, 0, True)

    def _topic(self, *parts: str) -> str:
        return "/".join((self._broker.prefix, *parts))

    # Called by the library on its thread. Any: what it hands on, and nobody here looks at.

    def _connected(
        self, client: paho.Client, data: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if reason.is_failure:
            self._is_connected = False
            logger.warning("mqtt_refused", extra={"reason": str(reason)})
            return
        logger.info("mqtt_connected", extra={"host": self._broker.host})
        with self._telling:
            self._is_connected = True
            # Not through the queue, which may be full of what came while the broker was away.
            for topic, state in (*self._states.items(), (self._topic("status"), ONLINE)):
                client.publish(topic, state, 0, True)
            self._states = {topic: state for topic, state in self._states.items() if state}

    def _disconnected(
        self, client: paho.Client, data: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if self._is_connected:
            logger.info("mqtt_disconnected", extra={"reason": str(reason)})
        self._is_connected = False

    def _not_reached(self, client: paho.Client, data: Any) -> None:
        logger.debug("mqtt_not_reached", extra={"host": self._broker.host})


def _trust(client: paho.Client, ca: Path | None) -> None:
    try:
        client.tls_set(ca_certs=str(ca) if ca else None)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise SettingInvalid(f"FEDFLEET_MQTT_CA={ca}: {error.args[-1]}") from error


def _credentials(path: Path) -> tuple[str, str]:
    """User and password, of a file that others may not read."""
    text = read_private(path).decode("utf-8", errors="replace").strip()
    user, colon, password = text.partition(":")
    if not colon or not user or "\n" in text:
        raise SettingInvalid(f"FEDFLEET_MQTT_CREDENTIALS={path}: must be one line USER:PASSWORD")
    return user, password
