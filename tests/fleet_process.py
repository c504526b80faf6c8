"""Many workers in one process, for tests of fleets that are larger than two cores can host.

Each worker is the real one (its own stream, disk and bench); they share the process and one
training thread. Arguments: coordinator address, number of workers, state folder, data folder or -.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from fedfleet.obs.logs import setup_logging
from fedfleet_worker.config import WorkerConfig
from fedfleet_worker.service import serve


async def main(coordinator: str, count: int, state: Path, data_dir: Path | None) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    configs = [
        WorkerConfig(
            coordinator=coordinator,
            worker_id=f"worker-{i}",
            shard=i,
            state_dir=state / f"worker-{i}",
            data_dir=data_dir,
            ops_port=0,
            grace_s=1.0,
        )
        for i in range(count)
    ]
    with ThreadPoolExecutor(1) as threads:
        await asyncio.gather(*(serve(config, stop, threads) for config in configs))


if __name__ == "__main__":
    address, count, state, data = sys.argv[1:]
    setup_logging("worker", "info")
    torch.set_num_threads(1)
    asyncio.run(main(address, int(count), Path(state), None if data == "-" else Path(data)))
