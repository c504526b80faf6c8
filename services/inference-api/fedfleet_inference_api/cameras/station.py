"""All of the cameras' side of a service: who films, who looks, and what is told of it."""

from __future__ import annotations

import pkgutil
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Protocol

from fedfleet.data.images import Pixels
from fedfleet.errors import CameraInvalid, NotFound, NotInstalled
from fedfleet_inference_api.batcher import Forwarded
from fedfleet_inference_api.cameras.config import Camera, read_cameras
from fedfleet_inference_api.cameras.fleet import Cameras
from fedfleet_inference_api.cameras.hub import EventHub
from fedfleet_inference_api.cameras.kept import KeptCameras
from fedfleet_inference_api.cameras.model_events import model_events
from fedfleet_inference_api.cameras.seen import CameraEvent, View
from fedfleet_inference_api.cameras.status import Status
from fedfleet_inference_api.cameras.viewers import Scene, Viewers
from fedfleet_inference_api.cameras.watcher import Watcher
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.following import Following
from fedfleet_inference_api.metrics import Metrics
from fedfleet_inference_api.servable import Servable

Submit = Callable[[Servable, Pixels], Future[Forwarded]]
# Found when it is asked for: paho is a package of its own.
_MQTT = "fedfleet_inference_api.cameras.mqtt:Mqtt"
# A view that is older than this beside its camera's newest frame shows another moment.
OLD_VIEW_S = 1.0


class Sender(Protocol):
    """What of ``Mqtt`` is used here."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def send(self, event: CameraEvent, text: str) -> None: ...
    def forget(self, camera: str) -> None: ...


class Station:
    """Cameras, the watcher, the events and the viewers, started and stopped together.

    Without cameras, and without networks in which callers may add some, nothing runs.

    Attributes:
        fault: why those that callers added are missing; empty: they are not.
        may_add: whether callers may add some.

    Args:
        look: the version to look with, asked for each frame.
        submit: computes an image with it, on the model's thread.

    Raises:
        CameraInvalid: the settings' cameras cannot be used.
        NotInstalled: MQTT is asked for, and its package is not there.
    """

    def __init__(
        self,
        config: InferenceConfig,
        *,
        look: Callable[[], Servable],
        submit: Submit,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self.hub = EventHub(most_readers=config.event_readers)
        self.viewers = Viewers(
            self.scene,
            most=config.camera_viewers,
            most_each=config.camera_viewers_each,
            count=metrics.camera_viewers.set,
        )
        self._cameras: Cameras | None = None
        self._watcher: Watcher | None = None
        self._sender = _sender(config, metrics)
        configured = read_cameras(config.cameras) if config.cameras else ()
        self._configured = frozenset(camera.name for camera in configured)
        self.may_add = bool(config.camera_networks)
        kept = KeptCameras(config.cameras_kept) if config.cameras_kept else None
        self.fault = kept.fault if kept is not None else ""
        metrics.kept_cameras_unusable.set(bool(self.fault))
        if configured or config.camera_networks or (kept is not None and kept.cameras):
            cameras = Cameras(
                configured,
                replace(config.camera_networks, ports=config.camera_ports),
                self._tell_state,
                slow_retry_s=config.camera_slow_retry_s,
                memory_mb=config.camera_memory_mb,
                kept=kept,
                on_gone=self._forget,
            )
            watcher = Watcher(cameras, look, submit, self._show, self.tell, metrics)
            self._cameras, self._watcher = cameras, watcher

    def start(self) -> None:
        if self._sender is not None:
            self.hub.listen(self._sender.send)
            self._sender.start()
        if self._cameras is not None and self._watcher is not None:
            self._cameras.start()
            self._watcher.start()

    def stop(self) -> None:
        """Blocks until the processes and threads are done."""
        self.end_streams()
        if self._watcher is not None:
            self._watcher.stop()
        if self._cameras is not None:
            self._cameras.stop()
        if self._sender is not None:
            self._sender.stop()

    def end_streams(self) -> None:
        """End every answer that goes on at once, from any thread; no new one begins."""
        self.hub.close()
        self.viewers.close()

    # What is told.

    def tell(self, event: CameraEvent) -> None:
        """Tell an event to all readers; called from any thread."""
        self.hub.publish(event)
        self._metrics.events.labels(event.kind).inc()

    def tell_model(self, before: Following, after: Following) -> None:
        """Tell what changed of what is served."""
        for event in model_events(before, after):
            self.tell(event)

    def _tell_state(self, name: str, status: Status) -> None:
        fields = {"state": status.state.value, "code": status.code.value}
        self.tell(CameraEvent(camera=name, at_s=time.time(), kind="state", fields=fields))
        self.viewers.tell(name)

    def _forget(self, name: str) -> None:
        if self._sender is not None:
            self._sender.forget(name)

    def _show(self, view: View) -> None:
        self.viewers.tell(view.frame.camera)

    # What callers ask.

    def names(self) -> list[str]:
        return self._cameras.names() if self._cameras is not None else []

    def describe(self, name: str) -> dict[str, Any]:
        """A camera's settings and state as JSON, hence Any; no credentials.

        Raises:
            NotFound: no such camera.
        """
        cameras = self._fleet(name)
        view = self._watcher.view(name) if self._watcher is not None else None
        return {
            **cameras.camera(name).to_json(),
            "kept": cameras.is_lasting(name),
            "configured": name in self._configured,
            "status": cameras.status(name).to_json(),
            "model": dict(view.model) or None if view is not None else None,
        }

    def scene(self, name: str) -> Scene:
        """What there is to show of a camera now.

        Raises:
            NotFound: no such camera.
        """
        cameras = self._fleet(name)
        zones = [(zone.name, zone.points) for zone in cameras.camera(name).zones]
        view = self._watcher.view(name) if self._watcher is not None else None
        frame = cameras.newest(name, view.frame.sequence if view is not None else 0)
        if frame is not None and (view is None or frame.at_s - view.frame.at_s > OLD_VIEW_S):
            view = View(frame=frame, model=view.model if view is not None else {})
        return Scene(view=view, zones=zones)

    def add(self, camera: Camera) -> None:
        """Begin to film; blocks for a moment.

        Raises:
            CameraInvalid: its address is not allowed, or its name is taken.
            Unavailable: it should be kept, and cannot be.
        """
        if self._cameras is None:
            raise CameraInvalid(
                "cameras are not added here: FEDFLEET_CAMERA_NETWORKS names no network that they "
                "may be in"
            )
        self._cameras.add(camera)

    def remove(self, name: str) -> None:
        """End a camera, and with it its viewers.

        Raises:
            NotFound: no such camera.
            Unavailable: it should be kept no longer, and that cannot be written.
        """
        self._fleet(name).remove(name)
        self.viewers.tell(name)

    def _fleet(self, name: str) -> Cameras:
        if self._cameras is None:
            raise NotFound(f"there is no camera {name!r}: none is configured")
        return self._cameras


def _sender(config: InferenceConfig, metrics: Metrics) -> Sender | None:
    if not config.mqtt:
        return None
    try:
        make: Callable[[InferenceConfig, Metrics], Sender] = pkgutil.resolve_name(_MQTT)
    except ImportError as error:
        raise NotInstalled(
            f"FEDFLEET_MQTT needs {error.name}: install fedfleet[inference,mqtt], or leave "
            "FEDFLEET_MQTT empty"
        ) from error
    return make(config, metrics)
