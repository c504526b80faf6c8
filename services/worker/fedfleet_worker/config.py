"""What a worker reads from its environment, once, at its start."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
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


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", platform.node())[:64] or "worker"


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """Settings; each field is the variable FEDFLEET_<NAME>."""

    coordinator: str = setting("the coordinator's HOST:PORT", default="127.0.0.1:7070", parse=str)
    worker_id: str = setting(
        "name of this worker in the fleet; empty is the host's name", default="", parse=str
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

    @property
    def name(self) -> str:
        """The worker's id."""
        return self.worker_id or _host_name()
