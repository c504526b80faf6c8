"""What the coordinator reads from its environment, once, at its start."""

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
from fedfleet.rpc.exposure import parse_tls, uses_tls
from fedfleet.store.lease import LASTS_S
from fedfleet.wire.limits import STALL_S

DAY_S = 86400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CoordinatorConfig:
    """Settings; each field is the variable FEDFLEET_<NAME>."""

    host: str = setting("address to listen on", default="127.0.0.1", parse=str)
    port: int = setting("gRPC port; 0 takes a free one", default=7070, parse=parse_port)
    ops_host: str = setting(
        "address of /livez, /readyz and /metrics", default="127.0.0.1", parse=str
    )
    ops_port: int = setting("port of /livez, /readyz and /metrics", default=7071, parse=parse_port)
    store: str = setting(
        "where the store is: sqlite:FOLDER, redis://HOST:PORT/NUMBER or rediss:// (with TLS)",
        default="sqlite:state",
        parse=str,
    )
    standby: bool = setting(
        "1 waits while another coordinator owns the store, and takes over when that is gone",
        default=False,
        parse=parse_bool,
    )
    lease_s: float = setting(
        "seconds without a sign of life after which a standby may take the store over",
        default=LASTS_S,
        parse=parse_positive_float,
    )
    data_dir: Path | None = setting(
        "folder with the data sets that versions are evaluated on", default=None, parse=parse_path
    )
    insecure: bool = setting(
        "1 allows connections without TLS beyond loopback", default=False, parse=parse_bool
    )
    tls: str = setting(
        "mutual TLS on the gRPC port: on, off, or auto, which is on beyond loopback",
        default="auto",
        parse=parse_tls,
    )
    enroll_port: int = setting(
        "port where tokens are traded for certificates, with TLS; 0 takes a free one",
        default=7073,
        parse=parse_port,
    )
    ca_dir: Path | None = setting(
        "folder of the certificate authority; else ca in a sqlite store's folder",
        default=None,
        parse=parse_path,
    )
    certificate_days: float = setting(
        "days that a certificate is good for; renewed at two thirds",
        default=7.0,
        parse=parse_positive_float,
    )
    renew_grace_days: float = setting(
        "days for which a certificate that has ended can still be renewed",
        default=30.0,
        parse=parse_positive_float,
    )
    server_certificate: Path | None = setting(
        "file with the gRPC port's certificates where another authority issues them",
        default=None,
        parse=parse_path,
    )
    server_key: Path | None = setting(
        "file with that certificate's key", default=None, parse=parse_path
    )
    client_root: Path | None = setting(
        "file with the certificates of that authority, which has issued the callers' too",
        default=None,
        parse=parse_path,
    )
    heartbeat_s: float = setting(
        "seconds between a worker's heartbeats; three missed ones end its session",
        default=5.0,
        parse=parse_positive_float,
    )
    keep_versions: int = setting(
        "how many of a model's newest versions keep their bytes; older ones without an alias are "
        "retired after each round; 0 keeps all",
        default=0,
        parse=parse_index,
    )
    grace_s: float = setting(
        "seconds that calls in progress get when the service stops",
        default=10.0,
        parse=parse_positive_float,
    )
    in_flight_mb: int = setting(
        "MiB of uploads that are received at once; more wait, held back by flow control",
        default=64,
        parse=parse_positive_int,
    )
    stall_s: float = setting(
        "seconds without a byte after which a transfer is ended, to be resumed",
        default=STALL_S,
        parse=parse_positive_float,
    )
    log_level: str = setting("debug, info, warning or error", default="info", parse=str)

    def __post_init__(self) -> None:
        files = (self.server_certificate, self.server_key, self.client_root)
        if any(files) and not all(files):
            raise SettingInvalid(
                "FEDFLEET_SERVER_CERTIFICATE, FEDFLEET_SERVER_KEY, FEDFLEET_CLIENT_ROOT: set all "
                "three, or none to have certificates issued here"
            )

    @property
    def uses_tls(self) -> bool:
        """Whether callers need a certificate."""
        return uses_tls(self.tls, self.host)

    @property
    def authority_folder(self) -> Path | None:
        """Where the certificate authority and the signer of versions are; None for nowhere."""
        if self.ca_dir is not None:
            return self.ca_dir
        scheme, _, path = self.store.partition(":")
        return Path(path).expanduser() / "ca" if scheme == "sqlite" else None
