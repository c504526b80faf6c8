"""The servers that bench/predict.py measures beside ours, each as its own guide starts it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers.environment import command
from processes import await_port, descendants, free_port, process
from record import ROOT

NAME = "litserve"
APP = Path(__file__).parent / "app"
START_S = 120.0


@contextmanager
def serving(folder: Path, plugins: Path, what: str, batch: int) -> Iterator[int]:
    """Serve a folder's ``card.json`` and ``weights.safetensors``; yields the port.

    Args:
        plugins: folder of installed plug-ins.
        what: ``handler`` (plain FastAPI), or LitServe computing ``eager`` or with ``ours``.
    """
    port = free_port()
    script = (
        (str(APP / "handler.py"), str(folder), str(port))
        if what == "handler"
        else (str(APP / "server.py"), str(folder), str(port), what, str(batch))
    )
    paths = (plugins, ROOT, ROOT / "services" / "inference-api")
    with process(
        (command(NAME, "python"), *script),
        folder / f"litserve-{what}.log",
        PYTHONPATH=":".join(str(path) for path in paths),
    ) as child:
        try:
            await_port(port, START_S)
            yield port
        finally:  # the processes that it has started outlive it
            for pid in descendants(child.pid):
                os.kill(pid, signal.SIGKILL)
