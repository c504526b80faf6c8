"""Starts a worker: ``fedfleet-worker``, settings from FEDFLEET_ variables."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

import torch

from fedfleet.env import read
from fedfleet.errors import FedFleetError
from fedfleet.obs.logs import log_context, setup_logging
from fedfleet.obs.ops_server import OpsServer
from fedfleet.rpc.channel import open_channel
from fedfleet.rpc.exposure import check_exposure
from fedfleet.rpc.supervisor import Supervisor
from fedfleet.v1.federation_service_pb2_grpc import FederationServiceStub
from fedfleet.wire.limits import check_worker_id
from fedfleet_worker.agent import Agent, Outbox
from fedfleet_worker.config import WorkerConfig
from fedfleet_worker.disk import Disk
from fedfleet_worker.metrics import WorkerMetrics
from fedfleet_worker.training import Bench
from fedfleet_worker.workbench import Workbench

logger = logging.getLogger(__name__)


async def serve(config: WorkerConfig) -> None:
    """Work until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = WorkerMetrics()
    outbox = Outbox()
    supervisor = Supervisor()
    async with open_channel(config.coordinator) as channel:
        stub = FederationServiceStub(channel)
        workbench = Workbench(Bench(config), Disk(config.state_dir), stub, metrics, outbox.put)
        agent = Agent(config, stub, workbench, outbox, metrics)

        def ready() -> tuple[bool, str]:
            return agent.connected, "connected" if agent.connected else "no coordinator"

        with OpsServer(config.ops_host, config.ops_port, ready, metrics.registry):
            supervisor.start("workbench", workbench.work())
            supervisor.start("agent", agent.run())
            try:
                await supervisor.run_until(stop)
            finally:
                await workbench.close(config.grace_s)
                await supervisor.close()


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
            asyncio.run(serve(config))
    except FedFleetError as error:
        sys.stderr.write(f"fedfleet-worker: {error.code}: {error.message}\n")
        return 1
    except Exception:
        logger.exception("worker_failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
