"""Puts one worker together and runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AsyncExitStack

from fedfleet.obs.ops_server import OpsServer
from fedfleet.rpc.channel import open_channel
from fedfleet.rpc.supervisor import Supervisor
from fedfleet.store.owner import hold_folder
from fedfleet.v1.federation_service_pb2_grpc import FederationServiceStub
from fedfleet_worker.agent import Agent, Outbox
from fedfleet_worker.config import WorkerConfig
from fedfleet_worker.disk import Disk
from fedfleet_worker.links import Links
from fedfleet_worker.memory import MemoryLimit
from fedfleet_worker.metrics import WorkerMetrics
from fedfleet_worker.pausing import Pausing
from fedfleet_worker.speeds import Speeds
from fedfleet_worker.training import Bench
from fedfleet_worker.workbench import Workbench


async def serve(
    config: WorkerConfig,
    stop: asyncio.Event,
    threads: Executor,
    make_bench: Callable[[WorkerConfig], Bench] = Bench,
) -> None:
    """Work until asked to stop; training runs in ``threads``, one task at a time."""
    metrics = WorkerMetrics()
    outbox = Outbox()
    supervisor = Supervisor()
    disk = Disk(config.state_dir)
    links = Links()
    loop = asyncio.get_running_loop()

    def tell() -> None:
        loop.call_soon_threadsafe(agent.tell)

    # In a thread: an accelerator takes seconds to be asked for the first time.
    speeds = await asyncio.to_thread(
        Speeds,
        config.state_dir / "speeds",
        threads=config.threads,
        limit_bytes=config.worker_memory_mb << 20,
        changed=tell,
    )
    pausing = Pausing(config.limits, metrics, changed=lambda: agent.tell())
    async with AsyncExitStack() as stack:
        stack.enter_context(hold_folder(config.state_dir, "the worker's state folder"))
        channel = await stack.enter_async_context(open_channel(config.coordinator))
        stub = FederationServiceStub(channel)
        # Apart, so that heartbeats and assignments never wait behind the bytes of a transfer.
        bulk = await stack.enter_async_context(
            open_channel(config.coordinator, own_connection=True)
        )
        workbench = Workbench(
            make_bench(config),
            disk,
            FederationServiceStub(bulk),
            metrics,
            threads,
            outbox.put,
            pausing=pausing,
            links=links,
            memory=MemoryLimit(config.worker_memory_mb << 20),
            margin_s=config.worker_margin_s,
            speeds=speeds,
        )
        agent = Agent(
            config,
            stub,
            workbench,
            outbox,
            metrics,
            why_paused=lambda: pausing.reason,
            links=links,
            speeds=speeds,
        )

        def ready() -> tuple[bool, str]:
            return agent.connected, "connected" if agent.connected else "no coordinator"

        with OpsServer(config.ops_host, config.ops_port, ready, metrics.registry):
            # Before the first assignment can come.
            await pausing.look()
            if config.limits.are_set:
                supervisor.start("pausing", pausing.watch())
            supervisor.start("workbench", workbench.work())
            supervisor.start("agent", agent.run())
            try:
                await supervisor.run_until(stop)
            finally:
                await workbench.close(config.grace_s)
                await supervisor.close()
