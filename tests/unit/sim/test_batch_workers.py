import numpy as np
import pytest

from fedfleet.data.shard import Shards
from fedfleet.errors import DataMissing, SettingInvalid
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.sim.engines import EngineSettings
from fedfleet.sim.inprocess import InProcess
from fedfleet.sim.jobs import Failed, Trained, TrainJob
from fedfleet.sim.outcome import Simulation
from fedfleet.sim.workplace import Workplace
from fedfleet.training.stacked import StackedTrainer
from fedfleet.training.state import initial_state
from fedfleet.training.trainers import Trainers

RECIPE = """
name = "batch"
[model]
architecture = "{architecture}"
[data]
dataset = "digits"
partition = "dirichlet"
alpha = 0.5
workers = 7
[training]
batch_size = 16
momentum = 0.9
threads = 1
[algorithm]
name = "scaffold"
[rounds]
rounds = 3
cohort = 5
over_select = 1
[evaluation]
workers = "cohort"
"""


def simulated(batch_workers: int, architecture: str = "mlp") -> Simulation:
    recipe = parse_recipe(RECIPE.format(architecture=architecture))
    return simulate(recipe, batch_workers=batch_workers)


@pytest.mark.parametrize("batch_workers", [2, 6])
def test_simulate_with_workers_in_batches_comes_to_what_it_does_without(batch_workers: int) -> None:
    alone, together = simulated(1), simulated(batch_workers)

    assert together.outcome == "completed"
    largest = np.abs(alone.state.trainable).max()
    assert np.abs(alone.state.trainable - together.state.trainable).max() < 1e-4 * largest
    for one, other in zip(alone.rounds, together.rounds, strict=True):
        assert (one.workers, one.weight, one.bytes_up, one.bytes_down) == (
            *(other.workers, other.weight, other.bytes_up, other.bytes_down),
        )
        assert one.metrics == pytest.approx(other.metrics, rel=1e-3)
        assert one.worker_evaluations.keys() == other.worker_evaluations.keys()


def test_carry_out_together_fails_the_job_whose_examples_cannot_be_had() -> None:
    recipe = parse_recipe(RECIPE.format(architecture="mlp").replace("scaffold", "fedavg"))
    trainers = Trainers(card_of(recipe), recipe.training, recipe.evaluation)
    shards = Shards(recipe.data, seed=recipe.seed, data_dir=None)
    base = initial_state(trainers.at().card, 1)
    jobs = [
        TrainJob(
            assignment_id=worker,
            worker_id=worker,
            round=1,
            seed=1,
            base=base,
            base_digest="",
            broadcast=(),
            memory={},
        )
        for worker in ("worker-0", "worker-99", "worker-1")
    ]
    workplace = Workplace(recipe, trainers, shards, data_dir=None)

    results = list(InProcess(workplace, StackedTrainer(trainers.at(), 3)).carry_out(jobs))

    assert [result.assignment_id for result in results] == [job.assignment_id for job in jobs]
    assert [type(result) for result in results] == [Trained, Failed, Trained]
    assert isinstance(results[1], Failed)
    assert results[1].code == DataMissing.code


def test_simulate_refuses_batches_of_a_model_that_is_trained_alone() -> None:
    with pytest.raises(SettingInvalid, match="cnn"):
        simulated(2, "cnn")


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_engine_settings_refuse_batches_where_time_would_decide_over_them(engine: str) -> None:
    with pytest.raises(ValueError, match="batch_workers"):
        EngineSettings(engine=engine, batch_workers=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_workers", [0, 100_001])
def test_engine_settings_refuse_an_odd_number_of_workers(batch_workers: int) -> None:
    with pytest.raises(ValueError, match="batch_workers"):
        EngineSettings(batch_workers=batch_workers)
