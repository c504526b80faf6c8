"""Puts one worker together and runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from fedfleet.identity.credentials import Credentials
from fedfleet.obs.logs import log_context
from fedfleet.obs.ops_server import OpsServer
from fedfleet.rpc.exposure import check_exposure
from fedfleet.rpc.supervisor import Supervisor
from fedfleet.store.disk_errors import disk_errors
from fedfleet.store.owner import hold_folder
from fedfleet.wire.limits import check_worker_id
from fedfleet_worker.agent import Agent, Outbox
from fedfleet_worker.config import WorkerConfig
from fedfleet_worker.disk import Disk
from fedfleet_worker.identity import (
    checked,
    enrol_patiently,
    held_credentials,
    may_go_without,
)
from fedfleet_worker.lines import Lines
from fedfleet_worker.links import Links
from fedfleet_worker.memory import MemoryLimit
from fedfleet_worker.metrics import WorkerMetrics
from fedfleet_worker.pausing import Pausing
from fedfleet_worker.renewal import Files, Keeper, Renewal
from fedfleet_worker.room import Room
from fedfleet_worker.speeds import Speeds
from fedfleet_worker.training import Bench
from fedfleet_worker.workbench import Workbench

MakeBench = Callable[[WorkerConfig], Bench]


async def serve(
    config: WorkerConfig, stop: asyncio.Event, threads: Executor, make_bench: MakeBench = Bench
) -> None:
    """Work until asked to stop; training runs in ``threads``, one task at a time."""
    metrics = WorkerMetrics()

    def ready() -> tuple[bool, str]:
        connected = metrics.is_connected
        return connected, "connected" if connected else "no coordinator"

    check_worker_id(config.name)
    credentials = held_credentials(config)
    enrols = credentials is None and config.tls != "off" and config.has_token
    if credentials is None and not enrols:
        may_go_without(config)
    check_exposure(config.ops_host, config.insecure, "the worker's ops port")
    with disk_errors():
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        hold_folder(config.state_dir, "the worker's state folder"),
        OpsServer(config.ops_host, config.ops_port, ready, metrics.registry),
    ):
        if enrols:
            enrolling = asyncio.create_task(enrol_patiently(config))
            credentials = await _unless(stop, enrolling)
            if credentials is None:
                return
            config = replace(config, token=None)
        if credentials is not None:
            config = replace(config, worker_id=credentials.identity.name)
        with log_context(worker_id=config.name):
            await _work(config, credentials, stop, threads, make_bench, metrics)


async def _unless(stop: asyncio.Event, work: asyncio.Task[Credentials]) -> Credentials | None:
    """The result of some work, or None where the worker is stopped before it is there."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        work.cancel()
        stopping.cancel()
        await asyncio.gather(work, stopping, return_exceptions=True)


def _keeper(config: WorkerConfig, held: Credentials, lines: Lines) -> Keeper:
    if config.external is not None:
        return Files(lines, held, config.external, partial(checked, config))
    return Renewal(lines, held, config.identity_dir, config.enrol_addresses)


async def _work(
    config: WorkerConfig,
    credentials: Credentials | None,
    stop: asyncio.Event,
    threads: Executor,
    make_bench: MakeBench,
    metrics: WorkerMetrics,
) -> None:
    outbox, supervisor, links = Outbox(), Supervisor(), Links()
    disk = Disk(config.state_dir)
    loop = asyncio.get_running_loop()

    def tell() -> None:
        agent.tell()

    # In a thread: an accelerator takes seconds to be asked for the first time.
    speeds = await asyncio.to_thread(
        Speeds,
        config.state_dir / "speeds",
        threads=config.threads,
        limit_bytes=config.worker_memory_mb << 20,
        changed=lambda: loop.call_soon_threadsafe(tell),
    )
    pausing = Pausing(config.limits, metrics, changed=tell)
    room = Room(disk, changed=tell)
    async with AsyncExitStack() as stack:
        lines = Lines(config.addresses, credentials)
        stack.push_async_callback(lines.close)
        keeper = None if credentials is None else _keeper(config, credentials, lines)
        workbench = Workbench(
            make_bench(config),
            disk,
            lines.bulk,
            metrics,
            threads,
            outbox.put,
            pausing=pausing,
            room=room,
            links=links,
            memory=MemoryLimit(config.worker_memory_mb << 20),
            margin_s=config.worker_margin_s,
            speeds=speeds,
        )
        agent = Agent(
            config,
            lines,
            workbench,
            outbox,
            metrics,
            keeper=keeper,
            why_paused=lambda: "; ".join(filter(None, (pausing.reason, room.reason))),
            links=links,
            speeds=speeds,
        )
        # Before the first assignment can come.
        await pausing.look()
        if config.limits.are_set:
            supervisor.start("pausing", pausing.watch())
        if keeper is not None:
            supervisor.start("renewal", keeper.watch())
        supervisor.start("room", room.watch())
        supervisor.start("workbench", workbench.work())
        supervisor.start("agent", agent.run())
        try:
            await supervisor.run_until(stop)
        finally:
            await workbench.close(config.grace_s)
            await supervisor.close()
