"""An RTSP camera for benchmarks: sends encoded pictures over and over; run by /usr/bin/python3.

They were encoded before, because a real camera does that itself. Prints its port; ends with its
standard input. Arguments: a folder with one file for each picture (H.264, in the order of their
names, the first one a key frame), frames per second.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gi  # type: ignore[import-not-found]

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # type: ignore[import-not-found]  # noqa: E402


class Camera:
    """Pushes one picture after the other, each with the time at which it was pushed."""

    def __init__(self, folder: Path, fps: int) -> None:
        self.pictures = [path.read_bytes() for path in sorted(folder.iterdir())]
        self.fps = fps
        self.next = 0
        self.sources: list[Gst.Element] = []

    def configure(self, _: GstRtspServer.RTSPMediaFactory, media: GstRtspServer.RTSPMedia) -> None:
        self.sources.append(media.get_element().get_by_name("source"))

    def push(self) -> bool:
        picture = Gst.Buffer.new_wrapped(self.pictures[self.next % len(self.pictures)])
        self.next += 1
        for source in self.sources:
            source.emit("push-buffer", picture)
        return True


def main(folder: str, fps: int) -> None:
    Gst.init(None)
    camera = Camera(Path(folder), fps)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service("0")
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        "( appsrc name=source is-live=true format=time do-timestamp=true "
        f"caps=video/x-h264,stream-format=byte-stream,alignment=au,framerate={fps}/1 ! "
        "h264parse ! rtph264pay config-interval=-1 name=pay0 pt=96 )"
    )
    factory.set_shared(True)
    factory.connect("media-configure", camera.configure)
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    sys.stdout.write(f"{server.get_bound_port()}\n")
    sys.stdout.flush()
    loop = GLib.MainLoop()

    def ended(_: GLib.IOChannel, __: GLib.IOCondition) -> bool:
        loop.quit()
        return False

    stdin = GLib.IOChannel.unix_new(0)
    GLib.io_add_watch(stdin, GLib.PRIORITY_DEFAULT, GLib.IOCondition.HUP, ended)
    GLib.timeout_add(1000 // fps, camera.push)
    loop.run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
