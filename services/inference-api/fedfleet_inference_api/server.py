"""The HTTP server: answers until a signal, and stops in order."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import uvicorn

from fedfleet.errors import FedFleetError
from fedfleet_inference_api.app import create_app
from fedfleet_inference_api.door import BACKLOG, Door
from fedfleet_inference_api.http_protocol import TimedProtocol
from fedfleet_inference_api.proxies import connection_group
from fedfleet_inference_api.refusal import LINGER_S
from fedfleet_inference_api.service import InferenceService
from fedfleet_inference_api.socket_protocol import MOST_BYTES, socket_class
from fedfleet_inference_api.tls import ServerCertificate

logger = logging.getLogger(__name__)

LOOK_S = 0.02
CERTIFICATE_TICKS = 100  # of a tenth of a second: certificates are short-lived and renewed
KEEP_ALIVE_S = 65  # above the 60 s after which common proxies drop an idle connection


class HttpServer(uvicorn.Server):
    """The server of a service's application.

    Args:
        certificate: None serves plain HTTP.
    """

    def __init__(
        self, service: InferenceService, certificate: ServerCertificate | None = None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(service),
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # it believes any proxy on this machine; proxies.py does not
                ws=socket_class(service.config.stall_s),
                ws_max_size=MOST_BYTES,
                ws_per_message_deflate=False,  # small messages; and what unpacks can be a bomb
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=math.ceil(service.config.grace_s),
            )
        )
        self._service = service
        self._certificate = certificate

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As the original, but with our protocol, and less than a minute for TLS to begin."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise FedFleetError("the service could not be started: see its log")
        config = self._service.config
        make = partial(
            TimedProtocol,
            stall_s=config.stall_s,
            body_s=config.request_timeout_s + LINGER_S,  # the application's own answer comes first
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        context = self._certificate.context if self._certificate else None
        loop = asyncio.get_running_loop()
        self.servers = []
        for listener in sockets or []:
            if isinstance(listener, Door):
                self._limit(listener)
            server = await loop.create_server(
                make,
                sock=listener,
                ssl=context,
                ssl_handshake_timeout=config.stall_s if context else None,
                backlog=BACKLOG,
            )
            self.servers.append(server)
        self.started = True

    def _limit(self, door: Door) -> None:
        config, refused = self._service.config, self._service.metrics.refused_connections
        door.most = config.max_connections
        door.most_per_group = config.address_connections
        door.group = lambda host: connection_group(host, config.trusted_proxies)
        door.refused = lambda limit: refused.labels(limit).inc()

    async def on_tick(self, counter: int) -> bool:
        if self._certificate is not None and counter % CERTIFICATE_TICKS == 0:
            self._certificate.refresh()
            self._certificate.warn_of_end(time.time())
            self._service.metrics.certificate_ends.set(self._certificate.ends_at_s)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As the original, behind the end of all answers that have none of their own."""
        self._service.station.end_streams()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to ``serve``: the original ends the process by the signal, not with 0."""
        yield


async def serve(
    service: InferenceService, listener: Door, certificate: ServerCertificate | None = None
) -> None:
    """Answer requests until SIGTERM or SIGINT, then let those in flight finish.

    For ``drain_s``, and while they finish, /readyz says 503 and everything else is answered as
    before, so that whoever balances load looks elsewhere. A second signal stops without waiting.
    """
    server = HttpServer(service, certificate)
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            server.force_exit = True
        service.is_draining = True
        service.station.end_streams()  # nobody waits for what never ends
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


async def _drain(service: InferenceService, server: HttpServer, stopping: asyncio.Event) -> None:
    """After the signal, wait as the settings say and for what runs, then end the server."""
    await stopping.wait()
    config = service.config
    logger.info("stopping", extra={"pending": service.busy, "drain_s": config.drain_s})
    loop = asyncio.get_running_loop()
    drained_s = loop.time() + config.drain_s
    deadline_s = drained_s + config.grace_s
    while loop.time() < drained_s or (service.busy and loop.time() < deadline_s):
        if server.force_exit:
            break
        await asyncio.sleep(LOOK_S)
    # Connections whose callers do not end them get what is left of the same time.
    server.config.timeout_graceful_shutdown = max(1, math.ceil(deadline_s - loop.time()))
    server.should_exit = True
