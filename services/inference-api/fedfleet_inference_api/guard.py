"""Lets a request in, or not, before a byte of its body is read: rates, keys, scopes."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import partial

from starlette.types import ASGIApp, Receive, Scope, Send

from fedfleet.errors import FedFleetError, LimitExceeded, NotAllowed, NotFound, Unauthenticated
from fedfleet.identity.tokens import split_key
from fedfleet.store.access import KeyRecord
from fedfleet_inference_api import scopes
from fedfleet_inference_api.answers import HEADERS, error_response
from fedfleet_inference_api.cameras.streams import STILL_ALLOWED
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.hostnames import check_host, own_names
from fedfleet_inference_api.keys import KeyRing
from fedfleet_inference_api.metrics import Metrics
from fedfleet_inference_api.proxies import caller_of
from fedfleet_inference_api.rates import Buckets
from fedfleet_inference_api.refusal import refuse

logger = logging.getLogger(__name__)

REALM = 'Bearer realm="fedfleet"'
# Wrong keys that an address may try at once, and how many more each second.
FAILURES_BURST = 10
FAILURES_PER_S = 0.5
MOST_GOOD = 4096
# Before a key among the subprotocols that a WebSocket offers.
KEY_PROTOCOL = "key."


class _Refused(Exception):
    def __init__(self, error: FedFleetError, headers: Mapping[str, str]) -> None:
        super().__init__(error.message)
        self.error = error
        self.headers = headers


class Guard:
    """Wrap the application.

    Args:
        keys: None where callers need none.
    """

    def __init__(
        self, app: ASGIApp, config: InferenceConfig, keys: KeyRing | None, metrics: Metrics
    ) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics
        self._trusted = config.trusted_proxies
        # With keys any name will do: a page that leads its own one here has none.
        self._own_names = own_names(config.host, config.hostnames) if keys is None else None
        self._addresses = Buckets(config.limit_per_s, config.burst)
        self._by_key = Buckets(config.limit_per_s, config.burst)
        self._failures = Buckets(FAILURES_PER_S, FAILURES_BURST)
        # Address and key id that have been right together: who shares an address with somebody
        # who tries keys goes on with the own one.
        self._good: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            await self._admit(scope)
        except _Refused as refused:
            error, headers = refused.error, refused.headers
        except FedFleetError as failed:
            error, headers = failed, {}
        else:
            await self._app(scope, receive, send)
            return
        self._metrics.errors.labels(error.code).inc()
        if scope["type"] == "websocket":  # an ordinary answer instead of the handshake's
            await error_response(error, {**HEADERS, **headers})(scope, receive, send)
            return
        await refuse(scope, receive, send, error, headers)

    async def _admit(self, scope: Scope) -> None:
        if not scope["path"].isprintable():
            # The framework's patterns take a line break at a path's end, the table's do not.
            raise _Refused(NotFound("there is nothing at this path"), {})
        route = scopes.route_of(scope.get("method", scopes.WEBSOCKET), scope["path"])
        if route in scopes.UNLIMITED:
            return
        if self._own_names is not None:
            check_host(scope["headers"], self._own_names)
        caller = caller_of(scope, self._trusted)
        _pass(self._addresses.take(caller), "this address")
        if scope["type"] == "websocket":
            _check_origin(scope)
        wanted = None if route is None else scopes.ROUTES[route]
        if self._keys is None or wanted == scopes.OPEN:
            return
        record = await self._known(scope, caller, self._keys)
        _pass(self._by_key.take(record.key_id), "this key")
        if wanted is not None and not set(wanted) & set(record.scopes):
            names = " or ".join(scope.value for scope in wanted)
            header = f'{REALM}, error="insufficient_scope", scope="{wanted[0].value}"'
            raise _Refused(
                NotAllowed(f"this key is not for that: it needs the scope {names}"),
                {"www-authenticate": header},
            )
        scope[STILL_ALLOWED] = partial(_still_allowed, self._keys, _presented(scope), wanted or ())

    async def _known(self, scope: Scope, caller: str, keys: KeyRing) -> KeyRecord:
        """Whose key a request shows; each wrong one costs the address something."""
        key_id = ""
        try:
            text = _presented(scope)
            key_id, _ = split_key(text)
            if (caller, key_id) not in self._good:
                _pass(self._failures.wait_s(caller), "wrong keys from this address")
            record = await keys.check(text)
        except Unauthenticated as error:
            if has_key(scope) and self._failures.take(caller) == 0:  # else the log would fill
                logger.info("key_refused", extra={"caller": caller, "key_id": key_id})
            raise _Refused(error, {"www-authenticate": REALM}) from error
        self._good[caller, key_id] = None
        self._good.move_to_end((caller, key_id))
        if len(self._good) > MOST_GOOD:
            self._good.popitem(last=False)
        return record


def _pass(wait_s: float, what: str) -> None:
    if wait_s > 0:
        raise _Refused(
            LimitExceeded(f"too many requests: {what} must wait"),
            {"retry-after": str(math.ceil(wait_s))},
        )


async def _still_allowed(keys: KeyRing, text: str, wanted: tuple[Enum, ...]) -> bool:
    """Whether an answer that goes on may go on; asked by it now and then."""
    try:
        record = await keys.check(text)
    except FedFleetError:  # revoked, ended, or nobody can say
        return False
    return not wanted or bool(set(wanted) & set(record.scopes))


def _check_origin(scope: Scope) -> None:
    """Let no page of another host open a socket here with its reader's browser.

    Browsers send such a page's answers to nobody else, but sockets are not held to that; and on
    loopback no key is asked for.
    """
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    _, _, origin = headers.get(b"origin", "").lower().partition("://")  # only browsers send it
    if b"origin" in headers and origin != headers.get(b"host", "").lower():
        raise _Refused(NotAllowed("a page of another host may not open this socket"), {})


def has_key(scope: Scope) -> bool:
    return any(True for _ in _shown_keys(scope))


def _shown_keys(scope: Scope) -> Iterator[str]:
    """Each key that a request shows; empty for a header that should hold one and does not.

    A browser cannot set headers of a WebSocket: there the key is a subprotocol, which no log and
    no history keeps, as they would an address.
    """
    for name, value in scope["headers"]:
        text = value.decode("latin-1").strip()
        if name == b"x-api-key":
            yield text
        elif name == b"authorization":
            scheme, _, rest = text.partition(" ")
            yield rest.strip() if scheme.lower() == "bearer" else ""
    for protocol in scope.get("subprotocols", ()):
        if protocol.startswith(KEY_PROTOCOL):
            yield protocol[len(KEY_PROTOCOL) :]


def _presented(scope: Scope) -> str:
    """The key of a request.

    Raises:
        Unauthenticated: there is none, or there are several.
    """
    found = set(_shown_keys(scope))
    if not found:
        raise Unauthenticated(
            "a key is needed: send it as X-API-Key or as Authorization: Bearer; an operator makes "
            "one with 'fedfleet key create'"
        )
    if len(found) > 1:
        raise Unauthenticated("the request shows two different keys: send one")
    return found.pop()
