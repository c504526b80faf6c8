"""The settings of the inference service; read once, in ``__main__``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedfleet.env import (
    parse_bool,
    parse_index,
    parse_path,
    parse_port,
    parse_positive_float,
    parse_positive_int,
    setting,
)
from fedfleet.errors import SettingInvalid
from fedfleet.rpc.exposure import is_loopback
from fedfleet_inference_api.proxies import Networks, parse_networks

MIB = 1024 * 1024
RATE_PER_S = 100.0


def parse_seconds(text: str) -> float:
    """Parse a number of seconds, 0 or more."""
    return 0.0 if text.strip() == "0" else parse_positive_float(text)


def parse_rest_auth(text: str) -> str:
    """Parse auto, on or off."""
    lowered = text.strip().lower()
    if lowered not in ("auto", "on", "off"):
        raise ValueError("must be auto, on or off")
    return lowered


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceConfig:
    """Settings; each field is the variable FEDFLEET_<NAME>.

    Raises:
        SettingInvalid: two settings do not go together.
    """

    store: str = setting(
        "where the store is: sqlite:FOLDER, redis://HOST:PORT/NUMBER or rediss:// (with TLS)",
        default="sqlite:state",
        parse=str,
    )
    host: str = setting("address to listen on", default="127.0.0.1", parse=str)
    inference_port: int = setting("HTTP port; 0 takes a free one", default=8080, parse=parse_port)
    inference_certificate: Path | None = setting(
        "file with the certificate for HTTPS, its chain behind it (PEM); not set: plain HTTP",
        default=None,
        parse=parse_path,
    )
    inference_key: Path | None = setting(
        "file with the key of that certificate (PEM)", default=None, parse=parse_path
    )
    insecure: bool = setting(
        "1 allows connections without TLS, or without keys, beyond loopback",
        default=False,
        parse=parse_bool,
    )
    rest_auth: str = setting(
        "auto, on or off: whether callers need a key; auto is on, but for a loopback host",
        default="auto",
        parse=parse_rest_auth,
    )
    rate_per_s: float | None = setting(
        "requests per second of each key and of each address, 0: any number; "
        f"not set: {RATE_PER_S:g} where callers need a key",
        default=None,
        parse=parse_seconds,
    )
    burst: int = setting(
        "requests that a key or an address may make at once",
        default=200,
        parse=parse_positive_int,
    )
    trusted_proxies: Networks = setting(
        "addresses and networks of proxies whose X-Forwarded-For is believed, separated by commas",
        default=(),
        parse=parse_networks,
    )
    max_connections: int = setting(
        "connections that are held at once; more are closed", default=512, parse=parse_positive_int
    )
    address_connections: int = setting(
        "those of one address that is no trusted proxy", default=128, parse=parse_positive_int
    )
    signer: str = setting(
        "file with the public key that versions must be signed with (PEM), or none: unsigned "
        "versions are served; not set: ca/signer.pem in the folder of a sqlite: store",
        default="",
        parse=str,
    )
    serve_model: str = setting(
        "name of the model to serve, empty: the one that changed last", default="", parse=str
    )
    serve_alias: str = setting("alias to follow", default="latest", parse=str)
    registry_poll_s: float = setting(
        "seconds between two looks at the registry", default=0.25, parse=parse_positive_float
    )
    max_body_bytes: int = setting(
        "largest request body", default=16 * MIB, parse=parse_positive_int
    )
    bodies_mb: int = setting(
        "MiB of request bodies that are held at once; more get 503",
        default=128,
        parse=parse_positive_int,
    )
    max_pending: int = setting(
        "predictions that may wait or run at once; more get 503",
        default=64,
        parse=parse_positive_int,
    )
    request_timeout_s: float = setting(
        "longest time for one prediction, reading its body included",
        default=30.0,
        parse=parse_positive_float,
    )
    stall_s: float = setting(
        "seconds for a request's headers, and without a byte of a body or of an answer, after "
        "which a connection is closed",
        default=10.0,
        parse=parse_positive_float,
    )
    threads: int = setting(
        "processor threads for the model, 0: torch decides", default=0, parse=parse_index
    )
    drain_s: float = setting(
        "seconds for which a service that stops answers as before while /readyz says no: what a "
        "balancer needs to notice",
        default=0.0,
        parse=parse_seconds,
    )
    grace_s: float = setting(
        "seconds that calls in progress get when the service stops",
        default=10.0,
        parse=parse_positive_float,
    )
    log_level: str = setting("debug, info, warning or error", default="info", parse=str)

    def __post_init__(self) -> None:
        if (self.inference_certificate is None) != (self.inference_key is None):
            raise SettingInvalid(
                "FEDFLEET_INFERENCE_CERTIFICATE and FEDFLEET_INFERENCE_KEY: set both, or neither"
            )
        if self.max_body_bytes > self.bodies_mb * MIB:
            raise SettingInvalid(
                f"FEDFLEET_MAX_BODY_BYTES={self.max_body_bytes}: no more than "
                f"FEDFLEET_BODIES_MB={self.bodies_mb} MiB"
            )

    @property
    def asks_for_keys(self) -> bool:
        """Whether callers need a key."""
        return self.rest_auth == "on" or (self.rest_auth == "auto" and not is_loopback(self.host))

    @property
    def limit_per_s(self) -> float:
        """Requests per second of each key and of each address; 0 is any number."""
        if self.rate_per_s is None:
            return RATE_PER_S if self.asks_for_keys else 0.0
        return self.rate_per_s
