"""The HTTP server: takes the port before anything else, and stops in order on a signal."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from fedfleet.errors import AddressInUse, SettingInvalid
from fedfleet_inference_api.app import create_app
from fedfleet_inference_api.service import InferenceService

logger = logging.getLogger(__name__)

LOOK_S = 0.02
KEEP_ALIVE_S = 65  # above the 60 s after which common proxies drop an idle connection
BACKLOG = 512


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen; the caller closes.

    Raises:
        AddressInUse: another process has the port.
        SettingInvalid: the host is not an address of this machine, or the port is not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"port {port} of {host} is taken by another process: stop it, or set "
                "FEDFLEET_INFERENCE_PORT to another port"
            ) from error
        raise SettingInvalid(
            f"cannot listen on {host} port {port}: {error.strerror or error}; look at "
            "FEDFLEET_HOST and FEDFLEET_INFERENCE_PORT"
        ) from error
    return listener


def http_server(service: InferenceService) -> uvicorn.Server:
    """The server of a service's application, not started."""
    return _Server(
        uvicorn.Config(
            create_app(service),
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=math.ceil(service.config.grace_s),
        )
    )


async def serve(service: InferenceService, listener: socket.socket) -> None:
    """Answer requests until SIGTERM or SIGINT, then let those in flight finish.

    While they finish, /readyz says 503 on connections that are still accepted, so that whoever
    balances load looks elsewhere. A second signal stops without waiting.
    """
    server = http_server(service)
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            server.force_exit = True
        service.is_draining = True
        stopping.set()

    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop)
    address = listener.getsockname()
    logger.info("listening", extra={"host": address[0], "port": address[1]})
    drain = asyncio.create_task(_drain(service, server, stopping))
    try:
        await server.serve(sockets=[listener])
    finally:
        drain.cancel()
    logger.info("stopped")


async def _drain(
    service: InferenceService, server: uvicorn.Server, stopping: asyncio.Event
) -> None:
    """After the signal, wait until no prediction is pending, then end the server."""
    await stopping.wait()
    logger.info("stopping", extra={"pending": service.predictor.pending})
    deadline_s = asyncio.get_running_loop().time() + service.config.grace_s
    while service.predictor.pending and asyncio.get_running_loop().time() < deadline_s:
        if server.force_exit:
            break
        await asyncio.sleep(LOOK_S)
    server.should_exit = True


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to ``serve``: the original ends the process by the signal, not with 0."""
        yield
