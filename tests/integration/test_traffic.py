"""Bytes that were moved, as the ``fedfleet`` command shows them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from harness import (
    ScriptedWorker,
    digits_recipe,
    initial_of,
    raises_code,
    running_coordinator,
    update_for,
)

from fedfleet.cli.main import main

RECIPE = digits_recipe("moved", more="[evaluation]\ncoordinator = false")
UPDATE_BYTES = 4 * (64 * 40 + 40 + 40 * 10 + 10)


async def test_bytes_of_each_worker_and_what_was_sent_again_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_coordinator(tmp_path) as running:

        async def cli(*argv: str) -> str:
            command = (*argv, "--coordinator", running.address)
            assert await asyncio.to_thread(main, command, {}) == 0
            return capsys.readouterr().out

        async def cli_json(*argv: str) -> Any:
            return json.loads(await cli(*argv, "--json"))

        run_id = await running.submit(RECIPE)
        workers = [ScriptedWorker(running, f"worker-{i}") for i in range(2)]
        for worker in workers:
            await worker.connect()
        initial = initial_of(RECIPE)
        for delta, worker in enumerate(workers):  # equal bytes would be sent once
            update = update_for(await worker.assignment(), worker.worker_id, initial, delta)
            if worker is workers[0]:  # sends all of it for nothing first
                update.header.payload_digest, right = "0" * 64, update.header.payload_digest
                await raises_code("CHECKSUM_MISMATCH", worker.upload(update))
                update.header.payload_digest = right
            await worker.upload(update)
        await running.finished(run_id)

        [round] = (await cli_json("run", "show", run_id))["round_results"]
        listed = (await cli_json("workers"))["workers"]
        shown = await cli("run", "show", run_id)
        table = await cli("workers")

    moved = {
        "worker-0": {"bytes_up": 2 * UPDATE_BYTES, "bytes_down": 0},
        "worker-1": {"bytes_up": UPDATE_BYTES, "bytes_down": 0},
    }
    assert round["traffic"] == moved
    assert (round["bytes_up"], round["bytes_down"]) == (2 * UPDATE_BYTES, 0)
    assert {worker["worker_id"]: worker["traffic"] for worker in listed} == moved
    assert "Moved in all: 24.1 kB up (and 12 kB sent again or in vain), 0 B down." in shown
    rows = [line for line in table.splitlines() if "worker-" in line]
    assert ["24.1 kB" in line for line in rows] == [True, False]
    assert ["12 kB" in line for line in rows] == [False, True]
