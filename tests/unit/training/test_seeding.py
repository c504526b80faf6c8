import subprocess
import sys

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.training.seeding import derive, isolated_rng, torch_generator

CPU = torch.device("cpu")
LABELS = st.lists(st.one_of(st.integers(), st.text(max_size=5)), max_size=4)


@given(seed=st.integers(0, 2**63 - 1), left=LABELS, right=LABELS)
def test_derive_names_one_stream_per_sequence_of_labels(
    seed: int, left: list[str | int], right: list[str | int]
) -> None:
    assert 0 <= derive(seed, *left) < 2**63
    assert (derive(seed, *left) == derive(seed, *right)) == (left == right)


def test_derive_is_the_same_in_every_process() -> None:
    code = "from fedfleet.training.seeding import derive; print(derive(7, 'order', 3))"

    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": salt}, capture_output=True
        ).stdout
        for salt in ("1", "2")
    }

    assert outputs == {f"{derive(7, 'order', 3)}\n".encode()}
    assert derive(7, "order", 3) == 7238820226073121488  # sha256sum of [7,"order",3]


def test_torch_generator_is_independent_of_the_global_one() -> None:
    before = torch.get_rng_state()

    first = torch.randperm(10, generator=torch_generator(5))
    second = torch.randperm(10, generator=torch_generator(5))

    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_isolated_rng_seeds_inside_and_restores_after() -> None:
    before = torch.get_rng_state()

    with isolated_rng(3, CPU):
        first = torch.rand(4)
    with isolated_rng(3, CPU):
        second = torch.rand(4)

    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
