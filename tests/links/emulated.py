"""A link with a rate, a delay and a loss, between this network namespace and one of its own.

Two TUN devices, and a thread that carries packets between them: what netem does, in user space, so
that it works on kernels without netem, draws its losses from a seed, and counts what it carried.
The TCP above it is the kernel's own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import selectors
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MTU = 1500
# As many packets as netem holds when it is not told otherwise.
QUEUE = 1000
TUN = Path("/dev/net/tun")


@dataclass
class Way:
    """One direction. ``rate`` in bytes per second, ``loss`` from 0 to 1."""

    source: int
    target: int
    rate: float
    delay_s: float
    loss: float
    random: random.Random
    free_at_s: float = 0.0
    queue: deque[tuple[float, bytes]] = field(default_factory=lambda: deque())
    carried_bytes: int = 0
    lost: int = 0

    def take(self, packet: bytes, now_s: float, is_up: bool) -> None:
        if not is_up or len(self.queue) >= QUEUE or self.random.random() < self.loss:
            self.lost += 1
            return
        self.free_at_s = max(now_s, self.free_at_s) + len(packet) / self.rate
        self.queue.append((self.free_at_s + self.delay_s, packet))

    def deliver(self, now_s: float) -> None:
        while self.queue and self.queue[0][0] <= now_s:
            packet = self.queue.popleft()[1]
            try:
                os.write(self.target, packet)
                self.carried_bytes += len(packet)
            except OSError as error:  # the device went down or away
                if error.errno not in (errno.EIO, errno.EINVAL, errno.ENOBUFS):
                    raise

    @property
    def due_s(self) -> float:
        return self.queue[0][0] if self.queue else float("inf")


class Link:
    """Carries packets until it is closed; ``up`` may be set from any thread.

    ``host`` is this side's address, ``namespace`` the name of the other side's.
    """

    def __init__(self, host: str, namespace: str, near: int, far: int) -> None:
        self.host = host
        self.namespace = namespace
        self.up = True
        self._near, self._far = near, far
        self._stop_r, self._stop_w = os.pipe()
        self.to_worker: Way
        self.to_coordinator: Way
        self.shape(12.5e6, 12.5e6)
        self._thread = threading.Thread(target=self._carry, name="link")

    def shape(
        self, down: float, up: float, *, delay_s: float = 0.0, loss: float = 0.0, seed: int = 0
    ) -> None:
        """Be such a link from now on; what is on its way is lost.

        Args:
            down, up: bytes per second to the worker and from it.
            delay_s: each way.
        """
        draws = random.Random(seed), random.Random(seed + 1)
        self.to_worker = Way(self._near, self._far, down, delay_s, loss, draws[0])
        self.to_coordinator = Way(self._far, self._near, up, delay_s, loss, draws[1])

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        os.write(self._stop_w, b"x")
        self._thread.join()
        for descriptor in (self._stop_r, self._stop_w):
            os.close(descriptor)

    def _carry(self) -> None:
        with selectors.DefaultSelector() as selector:
            for descriptor in (self._near, self._far, self._stop_r):
                selector.register(descriptor, selectors.EVENT_READ)
            while True:
                ways = self.to_worker, self.to_coordinator
                wait_s = max(0.0, min(1.0, *(way.due_s - time.monotonic() for way in ways)))
                ready = {key.fd for key, _ in selector.select(wait_s)}
                if self._stop_r in ready:
                    return
                for way in ways:
                    if way.source in ready:
                        packet = os.read(way.source, MTU + 64)
                        way.take(packet, time.monotonic(), self.up)
                    way.deliver(time.monotonic())


def why_not() -> str:
    """Why links cannot be made here, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if shutil.which("ip") is None:
        return "no ip command (Debian: apt-get install iproute2)"
    if not TUN.exists():
        return f"this machine has no {TUN}"
    try:
        with _namespace(f"fedfleet-probe-{os.getpid()}"), ExitStack() as stack:
            _tun(stack, f"ffp{os.getpid() % 10**6}")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"network namespaces are not allowed here: {error}"
    return ""


@contextmanager
def linked() -> Iterator[Link]:
    """A link whose far side is a namespace of its own; both go when the test ends."""
    number = os.getpid() % 10**6
    # A /30 of the range that is set aside for such tests (RFC 2544).
    base = (number % (1 << 14)) * 4  # at most 198.18.255.252
    first, near, far = (f"198.18.{(base + i) >> 8}.{(base + i) & 255}" for i in range(3))
    subnet = f"{first}/30"
    with _namespace(f"fedfleet-{number}") as namespace, ExitStack() as stack:
        far_side = ("-n", namespace)
        near_fd = _tun(stack, f"ffn{number}")
        far_fd = _tun(stack, f"fff{number}")
        _ip("link", "set", f"fff{number}", "netns", namespace)
        _ip(*far_side, "link", "set", "lo", "up")
        for where, name, address in (((), f"ffn{number}", near), (far_side, f"fff{number}", far)):
            _ip(*where, "addr", "add", f"{address}/30", "dev", name, "noprefixroute")
            _ip(*where, "link", "set", name, "up")
            # The congestion control of nearly every device, whatever this machine's own is.
            _ip(*where, "route", "add", subnet, "dev", name, "congctl", "cubic")
        link = Link(near, namespace, near_fd, far_fd)
        link.start()
        try:
            yield link
        finally:
            link.close()


def _tun(stack: ExitStack, name: str) -> int:
    """A TUN device; it goes with its descriptor."""
    descriptor = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    flags = struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI)
    fcntl.ioctl(descriptor, TUNSETIFF, flags)
    return descriptor


@contextmanager
def _namespace(name: str) -> Iterator[str]:
    _ip("netns", "add", name)
    try:
        yield name
    finally:
        _ip("netns", "del", name)


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)
