"""What the coordinator reads from its environment, once, at its start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedfleet.env import (
    parse_bool,
    parse_path,
    parse_port,
    parse_positive_float,
    parse_positive_int,
    setting,
)
from fedfleet.wire.limits import STALL_S


@dataclass(frozen=True, kw_only=True, slots=True)
class CoordinatorConfig:
    """Settings; each field is the variable FEDFLEET_<NAME>."""

    host: str = setting("address to listen on", default="127.0.0.1", parse=str)
    port: int = setting("gRPC port; 0 takes a free one", default=7070, parse=parse_port)
    ops_host: str = setting(
        "address of /livez, /readyz and /metrics", default="127.0.0.1", parse=str
    )
    ops_port: int = setting("port of /livez, /readyz and /metrics", default=7071, parse=parse_port)
    store: str = setting("where the store is: sqlite:FOLDER", default="sqlite:state", parse=str)
    data_dir: Path | None = setting(
        "folder with the data sets that versions are evaluated on", default=None, parse=parse_path
    )
    insecure: bool = setting(
        "1 allows connections without TLS beyond loopback", default=False, parse=parse_bool
    )
    heartbeat_s: float = setting(
        "seconds between a worker's heartbeats; three missed ones end its session",
        default=5.0,
        parse=parse_positive_float,
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
