"""Who this worker is: its credentials on disk, or those that a token is traded for."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from pathlib import Path

from fedfleet.errors import (
    AlreadyExists,
    CertificateInvalid,
    FedFleetError,
    InsecureAddress,
    LimitExceeded,
    NotFound,
    SettingInvalid,
    TimedOut,
    TokenInvalid,
    Unavailable,
)
from fedfleet.identity.credentials import (
    FILE,
    Credentials,
    load_credentials,
    load_external,
    save_credentials,
)
from fedfleet.identity.files import MAX_BYTES, is_there, locked
from fedfleet.identity.names import Role
from fedfleet.rpc.enrolment import enrol
from fedfleet.rpc.exposure import check_exposure, is_loopback
from fedfleet.rpc.retry import backoff_s
from fedfleet.store.disk_errors import disk_errors
from fedfleet.store.owner import hold_folder
from fedfleet.wire.limits import check_worker_id
from fedfleet_worker.clock import hint_of
from fedfleet_worker.config import WorkerConfig

logger = logging.getLogger(__name__)

LATER = (Unavailable, TimedOut, LimitExceeded)
_ADVICE = (
    "enrol it with `fedfleet-worker enroll`, or name its token by FEDFLEET_TOKEN_FILE; an operator "
    "makes one with `fedfleet token create --worker NAME`"
)


def held_credentials(config: WorkerConfig) -> Credentials | None:
    """Those that this worker has; None where it has none, or TLS is off.

    Raises:
        CertificateInvalid, NotFound, StoreUnavailable: files of an external authority, or those in
            the state folder, cannot be used.
        SettingInvalid: they are another worker's.
    """
    if config.tls == "off":
        return None
    if config.external is not None:
        held = load_external(*config.external)
    else:
        try:
            held = load_credentials(config.identity_dir)
        except NotFound:
            return None
    return checked(config, held)


def checked(config: WorkerConfig, held: Credentials) -> Credentials:
    """Credentials, if they are this worker's; raises CertificateInvalid, SettingInvalid."""
    identity = held.identity
    if identity.role is not Role.WORKER:
        raise SettingInvalid(f"the certificate is {identity.text}'s: a worker needs its own")
    if config.worker_id and config.worker_id != identity.name:
        raise SettingInvalid(
            f"FEDFLEET_WORKER_ID={config.worker_id}: the certificate of this worker is for "
            f"{identity.name}; unset FEDFLEET_WORKER_ID, or enrol with another FEDFLEET_STATE_DIR"
        )
    return held


def may_go_without(config: WorkerConfig) -> None:
    """Return where a worker without credentials may dial without TLS.

    Raises:
        InsecureAddress, NotFound: it may not; the text says what to do.
    """
    if config.tls == "on":
        raise NotFound(f"this worker has no certificate: {_ADVICE}")
    for address in config.addresses:
        host = address.rpartition(":")[0]
        if config.tls == "auto" and not is_loopback(host):
            raise InsecureAddress(
                f"this worker would dial {host} without a certificate: {_ADVICE}; or set "
                "FEDFLEET_TLS=off, and FEDFLEET_INSECURE=1, if everybody in between is trusted"
            )
        check_exposure(host, config.insecure, "the coordinator")


async def enrol_patiently(config: WorkerConfig) -> Credentials:
    """As ``enrol_now``, but waits for a coordinator that is not there yet."""
    waits = backoff_s(1.0, 20.0)
    while True:
        try:
            return await enrol_now(config)
        except LATER as error:
            extra = {"code": error.code, "reason": error.message, "detail": error.detail}
            logger.warning("not_enrolled_yet", extra=extra)
        # Never at once: a coordinator counts guesses at tokens.
        await asyncio.sleep(0.5 + next(waits))


async def enrol_now(config: WorkerConfig) -> Credentials:
    """Trade the token for credentials, and keep them.

    Raises:
        SettingInvalid: there is no token, it cannot be read, or it was for an operator.
        TokenInvalid: the coordinator does not take it.
        CertificateInvalid: somebody else answers there; the token was not sent.
        Unavailable, TimedOut, LimitExceeded: nobody answers at any of the addresses; try later.
        StoreFull, StoreUnavailable: they could not be kept; the token is untouched.
    """
    token = config.read_token()
    check_worker_id(config.name)
    # A token is spent when the answer comes: what keeps us from keeping it must show before.
    _check_writable(config.identity_dir)
    error: FedFleetError = Unavailable("there is no address to enrol at")
    for address in config.enrol_addresses:
        try:
            credentials = await enrol(address, token, config.name)
        except TokenInvalid as refusal:
            raise TokenInvalid(
                f"{refusal.message}. It was asked for as worker {config.name}. A token works once: "
                "if an earlier enrolment was cut off, have a new one made",
                detail=refusal.detail,
            ) from refusal
        except (CertificateInvalid, *LATER) as failure:
            hint = await hint_of(address, None)
            error = type(failure)(_with(failure.message, hint), detail=failure.detail)
            continue
        save_credentials(config.identity_dir, checked(config, credentials))
        logger.info(
            "enrolled",
            extra={"identity": credentials.identity.text, "expires_at_s": credentials.expires_at_s},
        )
        return credentials
    raise error


async def enrol_once(config: WorkerConfig, *, replace_held: bool) -> Credentials:
    """Enrol where no worker runs; raises AlreadyExists, StateInUse, and as ``enrol_now``."""
    with disk_errors():
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with hold_folder(config.state_dir, "the worker's state folder"):
        if not replace_held and is_there(config.identity_dir / FILE):
            raise AlreadyExists(
                f"{config.identity_dir} holds a certificate already: name another "
                "FEDFLEET_STATE_DIR, or give --replace"
            )
        return await enrol_now(config)


def _with(message: str, hint: str) -> str:
    return f"{message}; {hint}" if hint else message


def _check_writable(folder: Path) -> None:
    """Raises StoreFull, StoreUnavailable: the folder takes no credentials now."""
    with disk_errors(), locked(folder), tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(MAX_BYTES))
        file.flush()
        os.fsync(file.fileno())
