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
from fedfleet_inference_api.cameras.networks import (
    PORTS,
    CameraNetworks,
    parse_camera_networks,
    parse_ports,
)
from fedfleet_inference_api.hostnames import parse_hostnames
from fedfleet_inference_api.image_hosts import NO_HOSTS, ImageHosts, parse_hosts
from fedfleet_inference_api.proxies import Networks, parse_networks

MIB = 1024 * 1024
RATE_PER_S = 100.0
BACKENDS = ("auto", "torch", "torch-bfloat16", "onnx")


def parse_seconds(text: str) -> float:
    """Parse a number of seconds, 0 or more."""
    return 0.0 if text.strip() == "0" else parse_positive_float(text)


def parse_rest_auth(text: str) -> str:
    """Parse auto, on or off."""
    lowered = text.strip().lower()
    if lowered not in ("auto", "on", "off"):
        raise ValueError("must be auto, on or off")
    return lowered


def parse_share(text: str) -> float:
    """Parse a number from 0 to 1."""
    share = parse_seconds(text)
    if share > 1:
        raise ValueError("must be a number from 0 to 1")
    return share


def parse_level(text: str) -> str:
    """Parse the letter of a level."""
    level = text.strip().lower()
    if len(level) != 1 or not "a" <= level <= "p":
        raise ValueError("must be one letter, a to p")
    return level


def parse_backend(text: str) -> str:
    """Parse auto or the name of a backend."""
    lowered = text.strip().lower()
    if lowered not in BACKENDS:
        raise ValueError(f"must be one of {', '.join(BACKENDS)}")
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
    hostnames: frozenset[str] = setting(
        "names by which callers may ask where they need no key, separated by commas, beside "
        "addresses, localhost and the host; *: any, also one that a page of another host chose",
        default=frozenset(),
        parse=parse_hostnames,
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
    canary_alias: str = setting(
        "alias of a candidate, which is loaded beside the served version; empty: there is none",
        default="",
        parse=str,
    )
    canary_share: float = setting(
        "share of the requests that the candidate answers, 0 to 1, by a hash of X-Request-Id",
        default=0.0,
        parse=parse_share,
    )
    shadow_share: float = setting(
        "share of the requests whose images the candidate is shown beside, 0 to 1, to see how far "
        "it agrees",
        default=0.0,
        parse=parse_share,
    )
    rollback_failures: int = setting(
        "failed predictions in a version's first time after which the one before is served again",
        default=3,
        parse=parse_positive_int,
    )
    rollback_window_s: float = setting(
        "seconds of a version's first time", default=60.0, parse=parse_positive_float
    )
    rollback_alias: bool = setting(
        "1 moves the alias in the registry back, too, when a version is rolled back",
        default=False,
        parse=parse_bool,
    )
    pinned_versions: int = setting(
        "versions that are kept in memory because a caller asked for them by number or alias; 0: "
        "none is loaded for that",
        default=2,
        parse=parse_index,
    )
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
    max_batch: int = setting(
        "images that the model computes together, of those that wait",
        default=8,
        parse=parse_positive_int,
    )
    batch_images: int = setting(
        "images in one request of /predict/batch or of the V2 protocol",
        default=32,
        parse=parse_positive_int,
    )
    image_urls: ImageHosts = setting(
        "hosts from which images are fetched that callers name by an https URL, separated by "
        "commas; public: any host with a public address; empty: none",
        default=NO_HOSTS,
        parse=parse_hosts,
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
    serve_level: str = setting(
        "width at which versions are served: a is the whole model, b and so on the narrower levels "
        "that its run trained",
        default="a",
        parse=parse_level,
    )
    backend: str = setting(
        "what computes: auto (the fastest, as measured when a model is loaded), torch, "
        "torch-bfloat16 or onnx",
        default="auto",
        parse=parse_backend,
    )
    threads: int = setting(
        "processor threads for the model, 0: torch decides", default=0, parse=parse_index
    )
    cameras: Path | None = setting(
        "file with the cameras (TOML, a [[camera]] table each); not set: none",
        default=None,
        parse=parse_path,
    )
    cameras_kept: Path | None = setting(
        "file in which the cameras that callers add are kept over a restart, with their passwords; "
        "not set: they are forgotten",
        default=None,
        parse=parse_path,
    )
    camera_networks: CameraNetworks = setting(
        "networks, addresses and hosts that cameras may be at, separated by commas; empty: those "
        "of the file may be anywhere, and callers may add none",
        default=CameraNetworks(),
        parse=parse_camera_networks,
    )
    camera_ports: frozenset[int] = setting(
        "ports that cameras in these networks may be at, separated by commas",
        default=PORTS,
        parse=parse_ports,
    )
    camera_slow_retry_s: float = setting(
        "seconds until a camera that refused the password, or does not know the path, is asked "
        "again: some lock an account after a few tries",
        default=300.0,
        parse=parse_positive_float,
    )
    camera_memory_mb: int = setting(
        "MiB of address space that the process of one camera may take",
        default=1024,
        parse=parse_positive_int,
    )
    camera_viewers: int = setting(
        "live pictures that are watched at once, of all cameras; more get 503",
        default=16,
        parse=parse_positive_int,
    )
    camera_viewers_each: int = setting("those of one camera", default=8, parse=parse_positive_int)
    event_readers: int = setting(
        "callers that read events at once; more get 503", default=64, parse=parse_positive_int
    )
    mqtt: str = setting(
        "broker that events are sent to: mqtt://HOST:PORT/PREFIX, or mqtts:// (with TLS); empty: "
        "none",
        default="",
        parse=str,
    )
    mqtt_credentials: Path | None = setting(
        "file with the broker's USER:PASSWORD in one line, that only this service may read",
        default=None,
        parse=parse_path,
    )
    mqtt_ca: Path | None = setting(
        "file with the certificates that an mqtts: broker is checked against (PEM); not set: the "
        "system's",
        default=None,
        parse=parse_path,
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

        if self.batch_images > self.max_pending:
            raise SettingInvalid(
                f"FEDFLEET_BATCH_IMAGES={self.batch_images}: no more than FEDFLEET_MAX_PENDING="
                f"{self.max_pending}, for a batch takes a place for each image"
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
