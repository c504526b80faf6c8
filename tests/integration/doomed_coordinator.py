"""A coordinator that is killed right before its first commit of a round.

Usage: python doomed_coordinator.py STORE_URL HOST:PORT FOLDER
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from fedfleet.store.open import open_store
from fedfleet.store.protocols import RoundCommit, VersionRecord
from fedfleet_coordinator.config import CoordinatorConfig
from fedfleet_coordinator.service import Coordinator


def die(commit: RoundCommit) -> VersionRecord:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process that is killed does not go on")


async def serve(url: str, address: str, folder: Path) -> None:
    port = int(address.rpartition(":")[2])
    config = CoordinatorConfig(
        store=url, ca_dir=folder / "ca", port=port, ops_port=0, enroll_port=0, lease_s=1.0
    )
    with open_store(url) as store:
        store.commit_round = die  # type: ignore[method-assign]
        coordinator = Coordinator(config, store)
        await coordinator.start()
        await coordinator.run_until(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
