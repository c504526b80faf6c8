"""Versions that travel as deltas: deployed as simulated, byte for byte, and across a restart."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness import digits_recipe, fleet, free_port, running_coordinator, state_of_version

from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.types import Kind

# Dense: one anchor for all rounds. Sparse: every base is the next anchor, and those who were not
# chosen climb.
CHAINS = ("int8", "topk:0.1|int8", "eden:2", "stc:0.1")


def recipe_of(downlink: str, *, rounds: int, cohort: int, more: str = "") -> str:
    wire = f'[wire]\nuplink = "int8"\ndownlink = "{downlink}"'
    return digits_recipe("down", workers=4, rounds=rounds, cohort=cohort, more=f"{more}\n{wire}")


@pytest.mark.parametrize("downlink", CHAINS)
async def test_deployed_and_simulated_downlinks_agree_in_every_bit_and_byte(
    downlink: str, tmp_path: Path
) -> None:
    recipe = recipe_of(downlink, rounds=5, cohort=2)
    async with running_coordinator(tmp_path / "state") as running:
        with fleet(running.address, 4, tmp_path):
            await running.connected(4)  # else a first cohort could be drawn from fewer
            run_id = await running.submit(recipe)
            run = await running.finished(run_id)
        assert run.reason == ""
        deployed = state_of_version(running.store, "down")
        rounds = (await running.show(run_id)).rounds
        blobs = [path for path in (tmp_path / "state" / "blobs").rglob("*") if path.is_file()]

    simulation = simulate(parse_recipe(recipe))

    for kind in Kind:
        assert deployed.vector(kind).tobytes() == simulation.state.vector(kind).tobytes()
    downs = [sum(one.bytes_down for one in r.traffic.values()) for r in rounds]
    assert downs == [one.bytes_down for one in simulation.rounds]
    assert [r.bytes_up for r in rounds] == [one.bytes_up for one in simulation.rounds]
    assert [sum(one.bytes_up for one in r.traffic.values()) for r in rounds] == [
        r.bytes_up for r in rounds
    ]
    # The initial version is computed from the recipe; what follows are deltas.
    whole = 4 * (64 * 40 + 40 + 40 * 10 + 10)
    assert downs[0] == 0
    assert 0 < sum(downs) < 0.5 * 8 * whole
    # Versions are left, and nothing that only workers needed.
    assert len(blobs) == 5


async def test_run_with_a_downlink_goes_on_after_a_restart_as_if_nothing_had_been(
    tmp_path: Path,
) -> None:
    recipe = recipe_of("topk:0.1|int8", rounds=6, cohort=4)
    port = free_port()
    state = tmp_path / "state"
    async with running_coordinator(state, port=port) as running:
        run_id = await running.submit(recipe)
        with fleet(running.address, 4, tmp_path):
            await running.until(run_id, "round_committed")
            await running.until(run_id, "update_accepted")
        # A device that lost what it kept takes the anchor whole.
        shutil.rmtree(tmp_path / "workers" / "worker-0" / "versions")
    async with running_coordinator(state, port=port) as running:
        with fleet(running.address, 4, tmp_path):
            run = await running.finished(run_id)
        assert run.reason == ""
        deployed = state_of_version(running.store, "down")

    simulation = simulate(parse_recipe(recipe))

    assert deployed.trainable.tobytes() == simulation.state.trainable.tobytes()


async def test_workers_that_lose_what_they_held_find_the_anchor_in_every_round(
    tmp_path: Path,
) -> None:
    """Evaluating FedDyn's published mean empties a worker, round after round."""
    more = '[algorithm]\nname = "feddyn"\nalpha = 0.1\n[evaluation]\nworkers = "all"'
    recipe = recipe_of("topk:0.1|int8", rounds=14, cohort=2, more=more)
    async with running_coordinator(tmp_path / "state") as running:
        with fleet(running.address, 4, tmp_path):
            await running.connected(4)
            run_id = await running.submit(recipe)
            run = await running.finished(run_id)
        assert run.reason == ""
        deployed = state_of_version(running.store, "down")
        rounds = (await running.show(run_id)).rounds
        blobs = [path for path in (tmp_path / "state" / "blobs").rglob("*") if path.is_file()]

    simulation = simulate(parse_recipe(recipe))

    assert deployed.trainable.tobytes() == simulation.state.trainable.tobytes()
    downs = [sum(one.bytes_down for one in r.traffic.values()) for r in rounds]
    assert downs == [one.bytes_down for one in simulation.rounds]
    # The run is over: its versions are left, and nothing that only its workers needed.
    assert len(blobs) == 14
