"""A real RTSP server for tests, GStreamer's, with generated pictures; run by /usr/bin/python3.

Prints two ports, the second of a server that asks for user and password (digest). Then obeys
lines on standard input, ``stall``, ``flow``, ``size WIDTH HEIGHT``, for what is being sent, and
answers each with a line. Ends with its standard input. Arguments: first port (0: any), user,
password. Mounts: /live (H.264), /h265, /jpeg, /sound (audio alone), /theora.
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

RATE = 25
PICTURES = (
    "videotestsrc is-live=true pattern=ball ! "
    f"capsfilter name=size caps=video/x-raw,format=I420,width=320,height=240,framerate={RATE}/1 ! "
    "valve name=valve ! "
)
# One slice for a picture: the payloader would put parameters before each, and so break it in two.
H264 = "x264enc threads=1 tune=zerolatency speed-preset=ultrafast key-int-max=10 ! "
MOUNTS = {
    "/live": PICTURES + H264 + "rtph264pay config-interval=-1 name=pay0 pt=96",
    "/h265": PICTURES
    + "x265enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! "
    + "rtph265pay config-interval=-1 name=pay0 pt=96",
    "/jpeg": PICTURES + "jpegenc ! rtpjpegpay name=pay0 pt=26",
    "/sound": "audiotestsrc is-live=true ! audioconvert ! alawenc ! rtppcmapay name=pay0 pt=8",
    "/theora": PICTURES + "theoraenc ! rtptheorapay name=pay0 pt=96",
}
USER = "user"


class Server:
    """Servers of the same mounts, one of them with a password."""

    def __init__(self, port: int, user: str, password: str) -> None:
        self.elements: list[Gst.Element] = []
        auth = GstRtspServer.RTSPAuth()
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", USER)
        auth.add_digest(user, password, token)
        self.servers = [self.serve(port, None), self.serve(0, auth)]

    @property
    def ports(self) -> list[int]:
        return [server.get_bound_port() for server in self.servers]

    def serve(self, port: int, auth: GstRtspServer.RTSPAuth | None) -> GstRtspServer.RTSPServer:
        server = GstRtspServer.RTSPServer()
        server.set_address("127.0.0.1")
        server.set_service(str(port))
        server.set_auth(auth)
        for path, launch in MOUNTS.items():
            factory = GstRtspServer.RTSPMediaFactory()
            factory.set_launch(f"( {launch} )")
            factory.set_shared(True)
            permissions = GstRtspServer.RTSPPermissions()
            permissions.add_permission_for_role(USER, "media.factory.access", True)
            permissions.add_permission_for_role(USER, "media.factory.construct", True)
            factory.set_permissions(permissions)
            factory.connect("media-configure", self.configure)
            server.get_mount_points().add_factory(path, factory)
        server.attach(None)
        return server

    def configure(self, _: GstRtspServer.RTSPMediaFactory, media: GstRtspServer.RTSPMedia) -> None:
        self.elements.append(media.get_element())

    def obey(self, line: str) -> None:
        command, *numbers = line.split()
        for element in self.elements:
            if command in ("stall", "flow"):
                element.get_by_name("valve").set_property("drop", command == "stall")
            if command == "size":
                width, height = numbers
                size = f"video/x-raw,format=I420,width={width},height={height}"
                caps = Gst.Caps.from_string(f"{size},framerate={RATE}/1")
                element.get_by_name("size").set_property("caps", caps)


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(port: int, user: str, password: str) -> None:
    Gst.init(None)
    server = Server(port, user, password)
    loop = GLib.MainLoop()

    def listen(_: GLib.IOChannel, __: GLib.IOCondition) -> bool:
        line = sys.stdin.readline()
        if not line:
            loop.quit()
            return False
        server.obey(line)
        say("done")
        return True

    what = GLib.IOCondition.IN | GLib.IOCondition.HUP
    GLib.io_add_watch(GLib.IOChannel.unix_new(0), GLib.PRIORITY_DEFAULT, what, listen)
    say(*server.ports)
    loop.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
