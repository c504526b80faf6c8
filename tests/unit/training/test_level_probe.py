from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fedfleet.errors import AssignmentClosed, OutOfMemory, ProcessDied, RecipeInvalid, TimedOut
from fedfleet.models.card import ModelCard
from fedfleet.models.config import CharLstmOptions, CnnOptions, MlpOptions, ModelConfig
from fedfleet.training import level_probe
from fedfleet.training.config import TrainingConfig
from fedfleet.training.level_probe import ProbeTask, measure_levels
from fedfleet.training.submodels import SubModels
from fedfleet.types import InputSpec, Kind

RATES = (1.0, 0.5, 0.25)
IMAGES = InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))


def task(model: ModelConfig, inputs: InputSpec = IMAGES, **training: object) -> ProbeTask:
    card = ModelCard(model=model, inputs=inputs, classes=("x", "y", "z"))
    config = TrainingConfig(threads=1, **training)  # type: ignore[arg-type]  # a table of the fields
    return ProbeTask(card=card, training=config, rates=RATES)


CNN = ModelConfig(architecture="cnn", options=CnnOptions(hidden=32))
MLP = ModelConfig(architecture="mlp", options=MlpOptions(hidden=(32,)))
LSTM = ModelConfig(architecture="char_lstm", options=CharLstmOptions(hidden=16))
BIG = ModelConfig(architecture="mlp", options=MlpOptions(hidden=(3000, 3000)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "probed",
    [
        task(CNN, optimizer="adam", scheduler="cosine", augment="flip-crop", epochs=3),
        task(MLP, batch_size=0, scheduler="plateau", clip_norm=1.0),
        task(LSTM, InputSpec.tokens(length=12, vocabulary=80), lr=1000.0),
    ],
    ids=["cnn", "mlp", "lstm"],
)
def test_probe_measures_every_level_of_a_small_model(probed: ProbeTask) -> None:
    models = SubModels(probed.card, RATES)

    figures = measure_levels(probed, threads=1, seconds=60.0)

    assert [(one.level, one.rate) for one in figures] == [("a", 1.0), ("b", 0.5), ("c", 0.25)]
    for one in figures:
        assert one.parameters == models.schema(one.level).elements(Kind.TRAINABLE)
        assert 1.0 < one.samples_per_s < 1e9
        assert one.memory_bytes == 0 or 50e6 < one.memory_bytes < 4e9


@pytest.mark.slow
def test_probe_sees_that_a_narrow_level_is_faster_and_smaller() -> None:
    widest, _, narrowest = measure_levels(task(BIG), threads=1, seconds=60.0)

    assert narrowest.samples_per_s > 2 * widest.samples_per_s
    # 9 million parameters, their gradients and the received copy.
    assert narrowest.memory_bytes == 0 or widest.memory_bytes > narrowest.memory_bytes + 50e6


@pytest.mark.slow
def test_probe_without_time_measures_the_narrowest_level() -> None:
    figures = measure_levels(task(BIG), threads=1, seconds=0.0)

    assert [one.level for one in figures] == ["c"]
    assert figures[0].samples_per_s > 1


@pytest.mark.slow
def test_probe_says_what_is_wrong_with_a_model() -> None:
    flat = ModelConfig(architecture="mlp", options=MlpOptions(hidden=()))

    with pytest.raises(RecipeInvalid, match="no narrower"):
        measure_levels(task(flat), threads=1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux remembers a process's peak")
def test_probe_does_not_widen_beyond_the_memory_that_the_owner_allows() -> None:
    free = measure_levels(task(BIG), threads=1, seconds=60.0)
    limit_bytes = (free[1].memory_bytes + free[0].memory_bytes) // 2

    widest, second, third = measure_levels(
        task(BIG), threads=1, seconds=60.0, limit_bytes=limit_bytes
    )

    assert (widest.level, widest.samples_per_s) == ("a", 0.0)
    assert 0 < third.memory_bytes < second.memory_bytes < limit_bytes

    with pytest.raises(OutOfMemory):
        measure_levels(task(CNN), threads=1, limit_bytes=1 << 20)


def test_probe_is_given_up_when_nobody_wants_it() -> None:
    with pytest.raises(AssignmentClosed):
        measure_levels(task(CNN), threads=1, cancelled=lambda: True)


# Children in the place of the real one, each with an end that is hard to bring about.
CHILDREN = {
    "killed": "import os; print(LINE, flush=True); os.kill(os.getpid(), 9)",
    "killed at once": "import os; os.kill(os.getpid(), 9)",
    "out of memory": "print(LINE); print(LINE.replace('120.0', '0.0').replace('\"c\"', '\"b\"'))",
    "broken": "raise SystemExit('no torch here')",
    "slow": "while True: pass",
    "endless": "print(LINE, flush=True)\nwhile True: pass",
}
LINE = json.dumps(
    {"level": "c", "rate": 0.25, "parameters": 9, "samples_per_s": 120.0, "memory_bytes": 7}
)


@pytest.fixture
def child(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ProbeTask:
    (tmp_path / "child_of_test.py").write_text(f"LINE = {LINE!r}\n{CHILDREN[request.param]}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(level_probe, "_CHILD", "child_of_test")
    monkeypatch.setattr(
        level_probe, "_START_S", 2.0 if request.param in ("endless", "slow") else 60.0
    )
    return task(CNN)


@pytest.mark.parametrize("child", ["killed", "out of memory"], indirect=True)
def test_probe_knows_the_level_that_ran_out_of_memory(child: ProbeTask) -> None:
    exhausted, fits = measure_levels(child)

    assert (exhausted.level, exhausted.samples_per_s) == ("b", 0.0)
    assert (fits.level, fits.samples_per_s) == ("c", 120.0)


@pytest.mark.parametrize("child", ["killed at once"], indirect=True)
def test_probe_says_so_where_no_level_fits(child: ProbeTask) -> None:
    with pytest.raises(OutOfMemory):
        measure_levels(child)


@pytest.mark.parametrize("child", ["slow"], indirect=True)
def test_probe_says_so_where_not_even_the_narrowest_level_was_done_in_time(
    child: ProbeTask,
) -> None:
    with pytest.raises(TimedOut, match=r"not measured in 2\.1 s: this device is too slow"):
        measure_levels(child, seconds=0.1)


@pytest.mark.parametrize("child", ["broken"], indirect=True)
def test_probe_says_so_where_it_cannot_run(child: ProbeTask) -> None:
    with pytest.raises(ProcessDied) as caught:
        measure_levels(child)

    assert caught.value.detail == "no torch here"


@pytest.mark.parametrize("child", ["endless"], indirect=True)
def test_probe_that_hangs_is_ended_with_what_it_said(child: ProbeTask) -> None:
    figures = measure_levels(child, seconds=0.1)

    assert [one.level for one in figures] == ["c"]


def test_task_comes_back_from_json_with_its_digest() -> None:
    made = task(CNN, momentum=0.9, min_lr=None)

    back = ProbeTask.from_json(json.loads(json.dumps(made.to_json())))

    assert back == made
    assert back.digest == made.digest


def test_digest_is_of_all_that_figures_depend_on() -> None:
    made = task(CNN)
    others = [
        task(MLP),
        task(CNN, batch_size=7),
        replace(made, rates=(1.0, 0.5)),
        replace(made, scaler=False),
    ]

    assert len({one.digest for one in (made, task(CNN), *others)}) == 5


def test_probe_is_asked_for_without_torch() -> None:
    """The commands start fast, also on a small device."""
    code = "import fedfleet.training.level_probe, sys; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
