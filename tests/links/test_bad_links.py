"""Real processes over a link that is slow, lossy, or away for a while: nobody is given up.

The link is emulated between two network namespaces; see ``links/emulated.py``.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from links.emulated import Link, linked, why_not
from links.services import (
    Remote,
    coordinator_process,
    journal_of,
    logged,
    recipe_of,
    result_of,
    until,
    worker_process,
)

from fedfleet.rounds.chance import shuffled
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.training.seeding import derive
from fedfleet.wire.limits import CHUNK_BYTES

# Their seeds are of their names, which are those of the simulator.
FAR, NEAR = "worker-0", "worker-1"
OFFLINE_S = 30.0
REASON = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(REASON), reason=REASON)]


@pytest.fixture
def link() -> Iterator[Link]:
    with linked() as made:
        yield made


def check_result(folder: Path, recipe: str) -> None:
    reference = simulate(parse_recipe(recipe)).state
    assert result_of(folder).trainable.tobytes() == reference.trainable.tobytes()


async def run_over(link: Link, folder: Path, recipe: str, **environ: str) -> Remote:
    """A run of one worker behind the link, to its end; it must never have been dropped."""
    async with coordinator_process(folder, link.host, **environ) as remote:
        with worker_process(folder, remote.address, FAR, link=link):
            run = await remote.finished(await remote.submit(recipe))
            assert (run.code, run.reason) == ("", "")
            assert "worker_left" not in remote.events()
        assert not logged(folder, FAR, "stream_ended")
        assert not logged(folder, FAR, "transfer_interrupted")
    return remote


async def test_run_completes_over_2_mbit_200_ms_and_5_percent_loss(
    link: Link, tmp_path: Path
) -> None:
    link.shape(250e3, 250e3, delay_s=0.1, loss=0.05, seed=3)
    recipe = recipe_of([600, 300])

    await run_over(link, tmp_path, recipe)

    check_result(tmp_path, recipe)
    assert link.to_worker.lost > 0
    assert link.to_coordinator.lost > 0


async def test_slow_worker_is_never_dropped_while_its_upload_fills_the_link(
    link: Link, tmp_path: Path
) -> None:
    """A megabyte in one chunk, or in buffers before the heartbeats, takes it 35 s."""
    link.shape(1e6, 30e3, delay_s=0.02)
    recipe = recipe_of([900, 300])
    limits = {"FEDFLEET_HEARTBEAT_S": "3", "FEDFLEET_STALL_S": "8"}

    await run_over(link, tmp_path, recipe, **limits)

    check_result(tmp_path, recipe)
    assert link.to_coordinator.carried_bytes > CHUNK_BYTES


async def test_worker_that_is_offline_for_30_s_goes_on_and_keeps_its_assignment(
    link: Link, tmp_path: Path
) -> None:
    link.shape(1e6, 100e3, delay_s=0.02)
    names = (FAR, NEAR)
    seed = next(s for s in count() if _first_of(s, names) == (FAR,))
    recipe = recipe_of([900, 300], seed=seed, workers=2, more="min_workers = 2")
    async with coordinator_process(tmp_path, link.host) as remote:
        with (
            worker_process(tmp_path, remote.address, NEAR, 1),
            worker_process(tmp_path, remote.address, FAR, 0, link),
        ):
            run_id = await remote.submit(recipe)
            await until(lambda: link.to_coordinator.carried_bytes > 500_000)
            link.up = False
            await asyncio.sleep(OFFLINE_S)
            link.up = True
            run = await remote.finished(run_id)
            # The run may end before its last receipt has crossed the link.
            await until(lambda: bool(logged(tmp_path, FAR, "update_delivered")))

    assert (run.code, run.reason) == ("", "")
    assert [e["workers"] for e in journal_of(tmp_path, run_id, "cohort_selected")] == [[FAR]]
    [delivered] = logged(tmp_path, FAR, "update_delivered")
    resent = link.to_coordinator.carried_bytes - delivered["size_bytes"]
    assert resent < CHUNK_BYTES // 2, "it did not go on from where it was"


def _first_of(seed: int, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(shuffled(names, derive(seed, "cohort", 1, 1))[:1])


async def test_stopped_worker_is_dropped_and_goes_on_once_it_is_woken(
    link: Link, tmp_path: Path
) -> None:
    link.shape(1e6, 200e3)
    recipe = recipe_of([900, 300])
    limits = {"FEDFLEET_HEARTBEAT_S": "1", "FEDFLEET_STALL_S": "4"}
    async with coordinator_process(tmp_path, link.host, **limits) as remote:
        with worker_process(tmp_path, remote.address, FAR, link=link) as worker:
            run_id = await remote.submit(recipe)
            await until(lambda: link.to_coordinator.carried_bytes > 300_000)
            worker.send_signal(signal.SIGSTOP)
            await until(lambda: "worker_left" in remote.events())
            await asyncio.sleep(8.0)  # twice the stall: nothing shows that an upload has ended
            worker.send_signal(signal.SIGCONT)
            run = await remote.finished(run_id)

    assert (run.code, run.reason) == ("", "")
    assert "TIMED_OUT" in {e["code"] for e in logged(tmp_path, FAR, "transfer_interrupted")}
    assert len(journal_of(tmp_path, run_id, "cohort_selected")) == 1
    check_result(tmp_path, recipe)
