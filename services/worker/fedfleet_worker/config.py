"""What a worker reads from its environment, once, at its start."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass, field
from pathlib import Path

from fedfleet.env import (
    parse_bool,
    parse_index,
    parse_list,
    parse_path,
    parse_port,
    parse_positive_float,
    setting,
)
from fedfleet.errors import SettingInvalid
from fedfleet.rpc.address import split_address
from fedfleet.rpc.exposure import parse_tls
from fedfleet_worker.guest import Hours, Limits, Network, parse_hours

ENROLL_PORT = 7073


@dataclass(frozen=True)
class Secret:
    """A text that no log shows."""

    text: str = field(repr=False)


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", platform.node())[:64] or "worker"


def _parse_nice(text: str) -> int:
    value = parse_index(text)
    if value > 19:
        raise ValueError("must be a whole number from 0 to 19")
    return value


def _parse_ratio(text: str) -> float:
    value = parse_positive_float(text)
    if value > 1:
        raise ValueError("must be above 0 and at most 1")
    return value


def _parse_network(text: str) -> Network:
    if text == "any":
        return "any"
    if text == "unmetered":
        return "unmetered"
    raise ValueError("must be any or unmetered")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """Settings; each field is the variable FEDFLEET_<NAME>.

    Raises:
        SettingInvalid: two settings do not go together.
    """

    coordinator: str = setting(
        "the coordinator's HOST:PORT; behind commas, those that stand by for it",
        default="127.0.0.1:7070",
        parse=str,
    )
    worker_id: str = setting(
        "name of this worker in the fleet; empty is its certificate's, or else the host's",
        default="",
        parse=str,
    )
    tls: str = setting(
        "mutual TLS with the coordinator: on, off, or auto, which is on beyond loopback and "
        "wherever this worker has a certificate",
        default="auto",
        parse=parse_tls,
    )
    enroll: str = setting(
        "HOST:PORT where certificates are issued, several behind commas; empty is the "
        "coordinator's hosts, port 7073",
        default="",
        parse=str,
    )
    token: Secret | None = setting(
        "the single-use token to enrol with, where this worker has no certificate yet",
        default=None,
        parse=Secret,
    )
    token_file: Path | None = setting("file with that token", default=None, parse=parse_path)
    worker_certificate: Path | None = setting(
        "file with this worker's certificates where another authority issues them",
        default=None,
        parse=parse_path,
    )
    worker_key: Path | None = setting(
        "file with that certificate's key", default=None, parse=parse_path
    )
    server_root: Path | None = setting(
        "file with the certificates of the authority that has issued the coordinator's",
        default=None,
        parse=parse_path,
    )
    shard: int | None = setting(
        "which part of a partitioned benchmark set this worker holds, from 0",
        default=None,
        parse=parse_index,
    )
    data_dir: Path | None = setting("folder with the private data", default=None, parse=parse_path)
    state_dir: Path = setting(
        "folder for what must survive a restart", default=Path("worker-state"), parse=parse_path
    )
    tags: tuple[str, ...] = setting(
        "names separated by commas, shown with the worker",
        default=(),
        parse=parse_list,
    )
    threads: int = setting(
        "most threads that training may use; 0 leaves torch's own choice",
        default=0,
        parse=parse_index,
    )
    worker_nice: int = setting(
        "how far training stands back behind other processes, 0 to 19",
        default=10,
        parse=_parse_nice,
    )
    worker_memory_mb: int = setting(
        "MiB of resident memory above which training is given up as OUT_OF_MEMORY; 0: no limit",
        default=0,
        parse=parse_index,
    )
    worker_hours: Hours | None = setting(
        "when training is allowed by the device's clock, for example 22:00-06:00",
        default=None,
        parse=parse_hours,
    )
    worker_temperature_celsius: float | None = setting(
        "training rests above this temperature of the hottest sensor, until it is 5 degrees cooler",
        default=None,
        parse=parse_positive_float,
    )
    worker_battery_ratio: float | None = setting(
        "training rests while the device runs on a battery with a charge below this, from 0 to 1",
        default=None,
        parse=_parse_ratio,
    )
    worker_mains_only: bool = setting(
        "1 lets training rest whenever the device runs on its battery",
        default=False,
        parse=parse_bool,
    )
    worker_network: Network = setting(
        "any, or unmetered: then work and transfers rest on a mobile modem",
        default="any",
        parse=_parse_network,
    )
    worker_load_ratio: float | None = setting(
        "training rests while other processes use more than this share of all cores, from 0 to 1",
        default=None,
        parse=_parse_ratio,
    )
    worker_margin_s: float = setting(
        "seconds before the deadline, beside those that an update takes, at which training ends "
        "with what is done; at most a tenth of the time that there is",
        default=2.0,
        parse=parse_positive_float,
    )
    insecure: bool = setting(
        "1 allows connections without TLS beyond loopback", default=False, parse=parse_bool
    )
    ops_host: str = setting(
        "address of /livez, /readyz and /metrics", default="127.0.0.1", parse=str
    )
    ops_port: int = setting("port of /livez, /readyz and /metrics", default=7072, parse=parse_port)
    grace_s: float = setting(
        "seconds that an upload in progress gets when the service stops",
        default=10.0,
        parse=parse_positive_float,
    )
    log_level: str = setting("debug, info, warning or error", default="info", parse=str)

    def __post_init__(self) -> None:
        files = (self.worker_certificate, self.worker_key, self.server_root)
        if any(files) and not all(files):
            raise SettingInvalid(
                "FEDFLEET_WORKER_CERTIFICATE, FEDFLEET_WORKER_KEY, FEDFLEET_SERVER_ROOT: set all "
                "three, or none to have the coordinator issue certificates"
            )

    @property
    def name(self) -> str:
        """The worker's id."""
        return self.worker_id or _host_name()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the coordinator and its standbys are; raises SettingInvalid."""
        return _addresses(self.coordinator)

    @property
    def enrol_addresses(self) -> tuple[str, ...]:
        """Where to enrol, in the order in which to try; raises SettingInvalid."""
        if self.enroll:
            return _addresses(self.enroll)
        hosts = (address.rpartition(":")[0] for address in self.addresses)
        return tuple(f"{host}:{ENROLL_PORT}" for host in dict.fromkeys(hosts))

    @property
    def identity_dir(self) -> Path:
        """Where credentials are kept that the coordinator has issued."""
        return self.state_dir / "identity"

    @property
    def external(self) -> tuple[Path, Path, Path] | None:
        """Files of another authority: certificate, key, root."""
        certificate, key, root = self.worker_certificate, self.worker_key, self.server_root
        return (certificate, key, root) if certificate and key and root else None

    @property
    def has_token(self) -> bool:
        """Whether there is a token to enrol with."""
        return self.token is not None or self.token_file is not None

    def read_token(self) -> str:
        """The token to enrol with; raises SettingInvalid."""
        if self.token is not None:
            return self.token.text
        if self.token_file is None:
            raise SettingInvalid(
                "there is no token: give --token-file, or set FEDFLEET_TOKEN or FEDFLEET_TOKEN_FILE"
            )
        try:
            return self.token_file.read_text("ascii").strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it holds no token"
            raise SettingInvalid(f"FEDFLEET_TOKEN_FILE={self.token_file}: {why}") from error

    @property
    def limits(self) -> Limits:
        """When the device's owner lets it train."""
        return Limits(
            hours=self.worker_hours,
            temperature_celsius=self.worker_temperature_celsius,
            battery_ratio=self.worker_battery_ratio,
            mains_only=self.worker_mains_only,
            network=self.worker_network,
            load_ratio=self.worker_load_ratio,
        )


def _addresses(text: str) -> tuple[str, ...]:
    found = parse_list(text)
    if not found:
        raise SettingInvalid(f"address {text!r}: must be HOST:PORT, or several behind commas")
    for address in found:
        split_address(address)
    return found
