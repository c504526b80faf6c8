"""Cameras of 720p at 15 frames per second on two cores, looked at by ``ssd_tiny``: how old a frame
is when it has been looked at (95th percentile, target 0.3 s), whether that grows, and whether the
other cameras notice that one hangs.

Each camera is an RTSP server of its own (see camera_server.py) that sends a moving scene, so that
nearly every frame is looked at. Servers, camera processes, model and watcher share the two cores.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from quick_detector import card, train
from record import record

from fedfleet.data.shapes_scene import lane_movers, moving_scene
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store, VersionRecord
from fedfleet.types import ModelState
from fedfleet.wire.weights import encode_state
from fedfleet_inference_api.cameras.config import Camera
from fedfleet_inference_api.cameras.fleet import Cameras
from fedfleet_inference_api.cameras.networks import CameraNetworks
from fedfleet_inference_api.cameras.secrets import Secret
from fedfleet_inference_api.cameras.seen import CameraEvent, View
from fedfleet_inference_api.cameras.watcher import Watcher
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.service import InferenceService
from fedfleet_inference_api.signature_check import SignatureCheck

TARGET_S = 0.3
FPS, HEIGHT, WIDTH, FILM_S = 15, 720, 1280, 6
# What the last quarter's age may be of the first one's, and what more: a queue grows by seconds.
GROWTH, GROWTH_S = 1.25, 0.05
MEMORY_GROWTH = 1.1
SETTLING_S = 10.0
PATIENCE_S = 60.0
SERVER = Path(__file__).with_name("camera_server.py")


@dataclass(frozen=True)
class Sight:
    """A frame that a model looked at: when that was told, and how old the frame was then."""

    camera: str
    at_s: float
    age_s: float


class Ages:
    """Every frame that was looked at since the start, in order."""

    def __init__(self) -> None:
        self.sights: list[Sight] = []
        self.events: list[CameraEvent] = []

    def view(self, view: View) -> None:
        now_s = time.time()
        if view.seen_at_s > view.frame.at_s:  # else nothing moved, and nobody looked
            self.sights.append(Sight(view.frame.camera, now_s, now_s - view.frame.at_s))

    def between(self, from_s: float, until_s: float, cameras: Sequence[str]) -> list[float]:
        return [
            sight.age_s
            for sight in self.sights
            if from_s <= sight.at_s < until_s and sight.camera in cameras
        ]


def film(folder: Path, seed: int) -> None:
    """Encode a moving scene as a camera would, one file for each picture."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.gop_size = Fraction(1, FPS), Fraction(FPS), FPS
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "23"}
    scene = moving_scene(
        lane_movers(3, seed=seed, height=HEIGHT, width=WIDTH),
        frames=FPS * FILM_S,
        fps=FPS,
        height=HEIGHT,
        width=WIDTH,
        seed=seed,
        noise=3.0,
    )
    for number, one in enumerate(scene):
        picture = av.VideoFrame.from_ndarray(one.pixels, format="rgb24")
        (folder / f"{number:05d}").write_bytes(b"".join(map(bytes, encoder.encode(picture))))


@contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An RTSP server of a film while the body runs, and its address."""
    server = subprocess.Popen(
        ["/usr/bin/python3", str(SERVER), str(folder), str(FPS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        yield server, f"rtsp://127.0.0.1:{int(server.stdout.readline())}/live"
    finally:
        server.kill()
        server.communicate()


def publish(store: Store, state: ModelState) -> None:
    """Put a version of the detector into an empty store."""
    data = encode_state(state)
    version = VersionRecord(
        model="shapes",
        number=1,
        digest=store.blobs.put(data),
        size_bytes=len(data),
        schema=state.schema,
        run_id="",
        round=0,
        parent=None,
        created_at_s=time.time(),
        card=card().to_json(),
    )
    store.registry.add(version, ("latest",))


def memory_mb(pids: Sequence[int]) -> float:
    """Memory that processes hold together, in MiB; what they share counts in each."""
    pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids if pid)
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def busy_s() -> float:
    """Processor seconds of this process and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system


def await_all(cameras: Cameras, service: InferenceService, ages: Ages) -> None:
    """Wait until every camera's frames are looked at."""
    until_s = time.monotonic() + PATIENCE_S
    while {sight.camera for sight in ages.sights} != set(cameras.names()):
        if time.monotonic() > until_s:
            states = {name: cameras.status(name).to_json() for name in cameras.names()}
            raise SystemExit(f"not all cameras are looked at: {service.ready()}, {states}")
        time.sleep(0.1)


def p95_s(ages_s: Sequence[float]) -> float:
    return float(np.percentile(ages_s, 95)) if ages_s else float("inf")


def steady(ages: Ages, cameras: Cameras, seconds: float) -> dict[str, object]:
    """Watch for a while in which nothing happens."""
    names = cameras.names()
    processes = [os.getpid(), *(cameras.pid(name) for name in names)]
    memory, used_s, start_s = memory_mb(processes), busy_s(), time.time()
    time.sleep(seconds)
    end_s, quarter_s = time.time(), (time.time() - start_s) / 4
    whole = ages.between(start_s, end_s, names)
    each = {name: p95_s(ages.between(start_s, end_s, [name])) for name in names}
    first = p95_s(ages.between(start_s, start_s + quarter_s, names))
    last = p95_s(ages.between(end_s - quarter_s, end_s, names))
    after = memory_mb(processes)
    return {
        "p50_s": round(float(np.median(whole)), 4),
        "p95_s": round(p95_s(whole), 4),
        "p95_each_s": {name: round(age_s, 4) for name, age_s in each.items()},
        "p95_first_quarter_s": round(first, 4),
        "p95_last_quarter_s": round(last, 4),
        "looks_per_s_each": round(len(whole) / (end_s - start_s) / len(names), 2),
        "service_cores": round((busy_s() - used_s) / (end_s - start_s), 2),
        "memory_mb": [round(memory), round(after)],
        "holds": max(each.values()) <= TARGET_S
        and last <= GROWTH * first + GROWTH_S
        and after <= MEMORY_GROWTH * memory,
    }


def hanging(ages: Ages, pid: int, others: Sequence[str], seconds: float) -> dict[str, object]:
    """Stop a process in the middle of what it does, and watch the other cameras."""
    os.kill(pid, signal.SIGSTOP)
    start_s = time.time()
    try:
        time.sleep(seconds)
    finally:
        with suppress(ProcessLookupError):  # its watchdog has ended it meanwhile
            os.kill(pid, signal.SIGCONT)
    found = ages.between(start_s, time.time(), others)
    return {
        "p95_s": round(p95_s(found), 4),
        "looks_per_s_each": round(len(found) / seconds / len(others), 2),
        "holds": p95_s(found) <= TARGET_S,
    }


def measure(
    service: InferenceService,
    addresses: Sequence[tuple[int, str]],
    score: float,
    seconds: float,
    hang_s: float,
) -> None:
    ages, cameras = Ages(), _cameras([address for _, address in addresses], score)
    watcher = Watcher(
        cameras, service.served, service.submit, ages.view, ages.events.append, service.metrics
    )
    with ExitStack() as stack:
        for part in (service, cameras, watcher):
            part.start()
            stack.callback(part.stop)
        await_all(cameras, service, ages)
        time.sleep(SETTLING_S)
        found = steady(ages, cameras, seconds)
        names = cameras.names()
        server = hanging(ages, addresses[-1][0], names[:-1], hang_s)
        child = hanging(ages, cameras.pid(names[0]), names[1:], hang_s)
        backend = service.served().backend_name
    tracks = sum(event.kind == "track_started" for event in ages.events)
    verdicts = [bool(one.pop("holds")) for one in (found, server, child)]
    record(
        "cameras",
        all(verdicts),
        target_p95_s=TARGET_S,
        cameras=len(addresses),
        seconds=seconds,
        **found,
        server_hangs=server,
        camera_process_hangs=child,
        tracks_started=tracks,
        backend=backend,
    )


def _cameras(addresses: Sequence[str], score: float) -> Cameras:
    cameras = [
        Camera(name=f"camera-{number}", url=Secret(address), fps=float(FPS), score=score)
        for number, address in enumerate(addresses)
    ]
    return Cameras(cameras, CameraNetworks(), lambda name, status: None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--hang-s", type=float, default=20.0)
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--score", type=float, default=0.5, help="from which on a thing is seen")
    parser.add_argument("--store", help="of a detector; without one it is trained here")
    parser.add_argument("--train-s", type=float, default=120.0)
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = options.store or f"sqlite:{folder / 'store'}"
        store = stack.enter_context(open_store(address))
        if not options.store:
            sys.stderr.write(f"training for {options.train_s:g} s\n")
            state, loss = train(options.train_s)
            sys.stderr.write(f"loss {loss:.2f}\n")
            publish(store, state)
        films = folder / "film"
        films.mkdir()
        film(films, seed=1)
        servers = [stack.enter_context(served(films)) for _ in range(options.cameras)]
        config = InferenceConfig(store=address, signer="none", threads=1)
        service = InferenceService(config, store, SignatureCheck("none", address))
        addresses = [(server.pid, url) for server, url in servers]
        measure(service, addresses, options.score, options.seconds, options.hang_s)


if __name__ == "__main__":
    main()
