"""All cameras of the service: their processes, their states, their newest frames."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

from fedfleet.errors import CameraInvalid, NotFound
from fedfleet.obs.redaction import forget_secrets, hide_secrets
from fedfleet_inference_api.cameras.config import MOST_CAMERAS, Camera, check_together
from fedfleet_inference_api.cameras.keeper import Keeper
from fedfleet_inference_api.cameras.kept import KeptCameras
from fedfleet_inference_api.cameras.networks import CameraNetworks, NotAllowed, resolve
from fedfleet_inference_api.cameras.seen import Frame
from fedfleet_inference_api.cameras.sleeper import Sleeper
from fedfleet_inference_api.cameras.status import Status

__all__ = ["Cameras", "Status"]

logger = logging.getLogger(__name__)

SLOW_RETRY_S = 300.0
MEMORY_MB = 1024
# A process that the system does not end is left behind rather than waited for.
STOP_S = 10.0
LONGEST_WAIT_S = 60.0
# After an error that is no camera's: where the system is full, it may not be soon.
PAUSE_S = 1.0


class Cameras:
    """Every method may be called on any thread; one thread of its own looks after all processes.

    Args:
        networks: where cameras may be; with none, anywhere, and only those given here.
        on_state: told of every change of a state or code, on the supervisor's thread; must not
            block, and of this object may call ``status``, ``camera`` and ``names``.
        on_gone: told of a camera that was removed, when it has told its last state and there is
            no other of its name; as ``on_state``.
        slow_retry_s: seconds before a camera that refused the password, or does not know the
            path, is asked again.
        memory_mb: address space of a camera's process.
        kept: those that were added before, and where what is added and removed is written; None:
            it is forgotten. Of two of one name the one among ``cameras`` counts. One that may not
            be where it is now stays, and is not connected to.

    Raises:
        CameraInvalid: two cameras have one name, or there are too many, or an address is one
            that is not allowed.
    """

    def __init__(
        self,
        cameras: Sequence[Camera],
        networks: CameraNetworks,
        on_state: Callable[[str, Status], None],
        *,
        slow_retry_s: float = SLOW_RETRY_S,
        memory_mb: int = MEMORY_MB,
        kept: KeptCameras | None = None,
        on_gone: Callable[[str], None] = lambda name: None,
    ) -> None:
        check_together(cameras)
        for camera in cameras:
            if not (
                camera.place.is_file or networks.may_hold(camera.place.host, camera.place.port)
            ):
                raise CameraInvalid(
                    f'camera.name = "{camera.name}": {camera.place.shown} is not among '
                    "FEDFLEET_CAMERA_NETWORKS and FEDFLEET_CAMERA_PORTS"
                )
        self._networks = networks
        self._on_state, self._on_gone = on_state, on_gone
        self._slow_retry_s = slow_retry_s
        self._memory_mb = memory_mb
        self._kept = kept
        self._changing = threading.Lock()  # before the other one, and while a file is written
        self._lock = threading.Lock()
        self._frames = threading.Condition(self._lock)
        self._leaving: list[Keeper] = []
        self._keepers = {camera.name: self._keeper(camera) for camera in cameras}
        self._lasting = {camera.name for camera in cameras}  # there again after a restart
        self._take_kept()
        self._is_stopping = self._is_stopped = False
        self._sleeper = Sleeper()
        self._thread = threading.Thread(target=self._run, name="cameras")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End every process and the thread; takes a few seconds where a process hangs."""
        with self._lock:
            self._is_stopping = True
            self._frames.notify_all()
        self._sleeper.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._sleeper.close()
        with self._lock:
            if self._is_stopped:
                return
            self._is_stopped = True
            keepers, self._leaving = [*self._keepers.values(), *self._leaving], []
        for keeper in keepers:
            keeper.close()
            forget_secrets(keeper.camera.place.secrets())

    def names(self) -> list[str]:
        with self._lock:
            return list(self._keepers)

    def camera(self, name: str) -> Camera:
        """As it was configured.

        Raises:
            NotFound: there is none of this name.
        """
        return self._keeper_of(name).camera

    def status(self, name: str) -> Status:
        """How it is doing.

        Raises:
            NotFound: there is none of this name.
        """
        return self._keeper_of(name).status

    def is_lasting(self, name: str) -> bool:
        """Whether there will be one of this name after a restart."""
        with self._lock:
            return name in self._lasting

    def pid(self, name: str) -> int:
        """The id of its process, 0 while it has none.

        Raises:
            NotFound: there is none of this name.
        """
        return self._keeper_of(name).pid

    def add(self, camera: Camera) -> None:
        """Start one more. Blocks while its name is resolved: not for an event loop.

        Raises:
            CameraInvalid: its address is not among the allowed ones, its name is taken, or there
                are too many.
            Unavailable: it should be kept, and cannot be; so it is not started.
        """
        if not self._networks:
            raise CameraInvalid("no network is allowed for cameras: set FEDFLEET_CAMERA_NETWORKS")
        self._check_place(camera)
        with self._changing:
            self._check_room(camera.name)
            if self._kept is not None:
                self._kept.put(camera)
            with self._lock:
                self._keepers[camera.name] = self._keeper(camera)
                if self._kept is not None:
                    self._lasting.add(camera.name)
        self._sleeper.wake()

    def remove(self, name: str) -> None:
        """End one; its name is free at once. Blocks while that is written.

        Raises:
            NotFound: there is none of this name.
            Unavailable: it should be kept no longer, and that cannot be written; so it stays.
        """
        with self._changing:
            self._keeper_of(name)
            if self._kept is not None:
                self._kept.drop(name)
            with self._lock:
                self._leaving.append(self._keepers.pop(name))
                self._lasting.discard(name)
                self._frames.notify_all()
        self._sleeper.wake()

    def newest(self, name: str, after: int = 0) -> Frame | None:
        """The newest frame if its sequence is above ``after``; the caller's own.

        Raises:
            NotFound: there is none of this name.
        """
        return self._keeper_of(name).newest(after)

    def wait(self, name: str, after: int, timeout_s: float) -> Frame | None:
        """As ``newest``, waiting for one; None at once where the cameras stop.

        Raises:
            NotFound: there is none of this name, or not any more.
        """
        until_s = time.monotonic() + timeout_s
        while True:
            keeper = self._keeper_of(name)
            frame = keeper.newest(after)
            if frame is not None:
                return frame
            with self._lock:
                left_s = until_s - time.monotonic()
                if left_s <= 0 or self._is_stopping:
                    return None
                if self._keepers.get(name) is keeper and keeper.sequence <= after:
                    self._frames.wait(left_s)
                else:
                    # A frame was told of and is not there: what tells it is not to be trusted.
                    self._frames.wait(min(left_s, 0.05))

    def _take_kept(self) -> None:
        for camera in self._kept.cameras if self._kept is not None else ():
            reason = ""
            if camera.name in self._keepers:
                reason = "the file of FEDFLEET_CAMERAS has one of this name"
            elif len(self._keepers) >= MOST_CAMERAS:
                reason = f"there are {MOST_CAMERAS} cameras, the most there may be"
            if reason:
                extra = {"camera": camera.name, "reason": reason}
                logger.warning("kept_camera_left_out", extra=extra)
                continue
            place = camera.place
            # No network at all lets the operator's file say where cameras are, and callers nothing.
            is_allowed = bool(self._networks) and self._networks.may_hold(place.host, place.port)
            self._keepers[camera.name] = self._keeper(camera, is_allowed=is_allowed)
            self._lasting.add(camera.name)

    def _keeper(self, camera: Camera, *, is_allowed: bool = True) -> Keeper:
        hide_secrets(camera.place.secrets())
        return Keeper(
            camera,
            self._networks,
            slow_retry_s=self._slow_retry_s,
            memory_mb=self._memory_mb,
            on_state=self._on_state,
            on_frame=self._notify,
            is_allowed=is_allowed,
        )

    def _check_room(self, name: str) -> None:
        with self._lock:
            if name in self._keepers:
                raise CameraInvalid(f'camera.name = "{name}": there is one already')
            if len(self._keepers) >= MOST_CAMERAS:
                raise CameraInvalid(
                    f"there are {MOST_CAMERAS} cameras already, the most there may be"
                )

    def _check_place(self, camera: Camera) -> None:
        """One text for all that is wrong: it must not tell a caller what there is where."""
        refusal = CameraInvalid("camera.url: not an address that a camera may have here")
        if camera.place.is_file:
            raise refusal
        try:
            resolve(camera.place.host, camera.place.port, self._networks)
        except (NotAllowed, OSError, UnicodeError):
            raise refusal from None

    def _keeper_of(self, name: str) -> Keeper:
        with self._lock:
            keeper = self._keepers.get(name)
        if keeper is None:
            raise NotFound(f"there is no camera {name!r}")
        return keeper

    def _notify(self) -> None:
        with self._frames:
            self._frames.notify_all()

    def _run(self) -> None:
        is_failing = False
        while not self._is_stopping:
            try:
                self._turn()
                is_failing = False
            except Exception:
                # The supervisor: without it every camera would stay as it is for ever.
                if not is_failing:
                    logger.exception("cameras_supervisor_failed")
                is_failing = True
                with self._frames:
                    self._frames.wait_for(lambda: self._is_stopping, PAUSE_S)
        self._end(self._all()[0])

    def _turn(self) -> None:
        keepers, leaving = self._all()
        for keeper in leaving:
            if not keeper.is_leaving:
                _guarded(keeper, Keeper.end)
        for keeper in keepers:
            _guarded(keeper, Keeper.step)
        self._let_go()
        self._sleep(keepers)

    def _all(self) -> tuple[list[Keeper], list[Keeper]]:
        """All of them, and those among them that are to end."""
        with self._lock:
            return [*self._keepers.values(), *self._leaving], list(self._leaving)

    def _let_go(self) -> None:
        with self._lock:
            gone = [keeper for keeper in self._leaving if keeper.is_gone]
            self._leaving = [keeper for keeper in self._leaving if not keeper.is_gone]
            there = {*self._keepers, *(keeper.camera.name for keeper in self._leaving)}
        for keeper in gone:
            keeper.close()
            forget_secrets(keeper.camera.place.secrets())
        for name in {keeper.camera.name for keeper in gone} - there:
            self._on_gone(name)

    def _sleep(self, keepers: Sequence[Keeper], until_s: float = math.inf) -> None:
        """Until a process tells something, something is due, or somebody wakes us."""
        due_s = min([until_s, *(keeper.due_s for keeper in keepers)])
        processes = (keeper.process for keeper in keepers)
        self._sleeper.sleep(
            [process for process in processes if process is not None],
            min(due_s - time.monotonic(), LONGEST_WAIT_S),
        )

    def _end(self, keepers: Sequence[Keeper]) -> None:
        until_s = time.monotonic() + STOP_S
        for keeper in keepers:
            _guarded(keeper, Keeper.end)
        try:
            while (left := [k for k in keepers if not k.is_gone]) and time.monotonic() < until_s:
                self._sleep(left, until_s)
                for keeper in left:
                    _guarded(keeper, Keeper.step)
        finally:
            for keeper in keepers:
                keeper.kill()


def _guarded(keeper: Keeper, act: Callable[[Keeper], None]) -> None:
    try:
        act(keeper)
    except Exception:
        # The supervisor: one camera's trouble is not that of the others.
        logger.exception("camera_supervisor_failed", extra={"camera": keeper.camera.name})
