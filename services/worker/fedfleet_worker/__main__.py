"""Starts a worker: ``fedfleet-worker``, settings from FEDFLEET_ variables."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import torch

from fedfleet.env import read
from fedfleet.errors import FedFleetError
from fedfleet.obs.logs import log_context, setup_logging
from fedfleet.rpc.exposure import check_exposure
from fedfleet.wire.limits import check_worker_id
from fedfleet_worker.config import WorkerConfig
from fedfleet_worker.priority import stand_back
from fedfleet_worker.service import serve

logger = logging.getLogger(__name__)


async def serve_until_signal(config: WorkerConfig) -> None:
    """Work until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with ThreadPoolExecutor(
        1, "training", initializer=stand_back, initargs=(config.worker_nice,)
    ) as threads:
        await serve(config, stop, threads)


def main() -> int:
    """Run the service; 0 after a graceful stop, 1 after an error in one line on stderr."""
    try:
        config = read(WorkerConfig, os.environ)
        setup_logging("worker", config.log_level)
        check_worker_id(config.name)
        check_exposure(config.coordinator.rpartition(":")[0], config.insecure, "the coordinator")
        check_exposure(config.ops_host, config.insecure, "the worker's ops port")
        if config.threads:
            torch.set_num_threads(config.threads)
        with log_context(worker_id=config.name):
            asyncio.run(serve_until_signal(config))
    except FedFleetError as error:
        sys.stderr.write(f"fedfleet-worker: {error.code}: {error.message}\n")
        return 1
    except Exception:
        logger.exception("worker_failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
