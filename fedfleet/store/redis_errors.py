"""Turns what redis-py says into the store's errors, without what a password could be in."""

from __future__ import annotations

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from fedfleet.errors import FedFleetError, StoreFull, StoreUnavailable

_PASSES = (ConnectionError, TimeoutError, ReadOnlyError, TryAgainError, ClusterDownError)
# The same by what the answer begins with; older releases of redis-py have no class for each.
_PASSING_CODES = ("BUSY", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN")
_ELSEWHERE_CODES = ("MOVED", "ASK")
_REFUSALS = (AuthenticationError, AuthorizationError)


def passes(error: RedisError) -> bool:
    """Whether the server may take the same command a moment later, over a new connection."""
    if isinstance(error, _REFUSALS):
        return False
    return isinstance(error, _PASSES) or _code(error) in _PASSING_CODES


def store_error(error: RedisError, password: str, *, unsure: bool = False) -> FedFleetError:
    """The error to raise. Addresses go to the private detail only, the password nowhere.

    Args:
        unsure: an earlier try of the same write may have happened, so nobody may be told that
            nothing was written.
    """
    detail = str(error)
    if password:
        detail = detail.replace(password, "***")
    detail = f"{type(error).__name__}: {detail[:300]}"
    if unsure and _kind(error) is StoreFull:
        return StoreUnavailable(
            "the store's Redis has no room left and lost an answer: make room there", detail=detail
        )
    return _kind(error)(_message(error), detail=detail)


def _kind(error: RedisError) -> type[FedFleetError]:
    full = isinstance(error, OutOfMemoryError) or _is_disk_full(error)
    return StoreFull if full else StoreUnavailable


def _message(error: RedisError) -> str:
    if isinstance(error, OutOfMemoryError):
        return "the store's Redis has reached its maxmemory, nothing was written: make room there"
    if _is_disk_full(error):
        return "the disk of the store's Redis is full, nothing was written: make room there"
    if isinstance(error, _REFUSALS):
        return "the store's Redis refuses the user or the password: check those in the store's URL"
    if isinstance(error, NoPermissionError):
        return "the store's Redis does not allow its user this: give it the rights in docs/redis.md"
    if isinstance(error, AskError) or _code(error) in _ELSEWHERE_CODES:
        return (
            "the store's Redis is a cluster whose other server keeps this namespace: name that "
            "server in the store's URL"
        )
    if isinstance(error, ReadOnlyError):
        return "the store's Redis is a replica and takes no writes: name the primary"
    if isinstance(error, ConnectionError) and "SSL" in str(error):
        return (
            "the store's Redis and this service do not trust each other's certificates: check ca, "
            "cert and key in the store's URL, and that the certificate there is for its host"
        )
    if isinstance(error, TimeoutError):
        return "the store's Redis does not answer: try again"
    if passes(error):
        return "the store's Redis cannot be reached: try again"
    if _code(error) == "MISCONF":
        return "the store's Redis cannot write to its disk and takes no writes: look at its log"
    return "the store's Redis refused a command: look at the log"


def _is_disk_full(error: RedisError) -> bool:
    return _code(error) == "MISCONF" and "No space left" in str(error)


def _code(error: RedisError) -> str:
    return str(error).partition(" ")[0] if isinstance(error, ResponseError) else ""
