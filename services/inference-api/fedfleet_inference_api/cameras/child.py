"""The process of one camera: decodes its stream into a ring, and ends with the service.

Started as ``python -m fedfleet_inference_api.cameras.child NAME``. The first line of standard
input is its spec; at the end of standard input it exits. What it tells goes to standard output.
It imports neither torch nor FastAPI: it has to be small and quick to start.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from types import TracebackType

import av.logging

from fedfleet_inference_api.cameras.confinement import confine
from fedfleet_inference_api.cameras.decoding import Decoding
from fedfleet_inference_api.cameras.faults import SourceFailed
from fedfleet_inference_api.cameras.ring import Ring
from fedfleet_inference_api.cameras.seen import CameraCode
from fedfleet_inference_api.cameras.source import open_source
from fedfleet_inference_api.cameras.spec import Spec, Told, parse_spec
from fedfleet_inference_api.cameras.urls import parse_place


class Voice:
    """Tells the service; what it has no room for is left out, but for the last word."""

    def __init__(self) -> None:
        # Whatever else prints must not be taken for a word of ours.
        self._fd = os.dup(1)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        os.set_blocking(self._fd, False)

    def tell(self, told: Told) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._fd, told.to_line())

    def last(self, told: Told) -> None:
        os.set_blocking(self._fd, True)
        os.write(self._fd, told.to_line())

    def cry(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """Tell of an error of our own: its kind and place. Its text could hold the URL."""
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = Path(trace.tb_frame.f_code.co_filename).name if trace else "?"
        line = trace.tb_lineno if trace else 0
        self.last(Told(code=CameraCode.FAILED, fault=f"{kind.__name__} at {place}:{line}"))


def main() -> None:
    # Without a buffer: its lock, held by the thread below, would outlive the interpreter.
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        spec = parse_spec(stdin.readline())
    voice = Voice()
    sys.excepthook = voice.cry
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    confine(spec.parent, spec.memory_mb)
    av.logging.set_level(av.logging.PANIC)  # its lines hold URLs
    try:
        _work(spec, voice)
        code = CameraCode.ENDED
    except SourceFailed as error:
        code = error.code
    voice.last(Told(code=code))


def _work(spec: Spec, voice: Voice) -> None:
    place = parse_place(spec.url)
    decoding = Decoding(spec, Ring(spec.ring_fd, spec.max_side), voice.tell)
    while True:
        source = open_source(spec, place)
        try:
            count = decoding.run(source)
        finally:
            source.close()
        if not count:
            raise SourceFailed(CameraCode.NO_VIDEO)
        if not (place.is_file and spec.loop):
            return


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
