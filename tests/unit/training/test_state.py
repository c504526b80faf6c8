from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedfleet.errors import SchemaMismatch
from fedfleet.models.card import ModelCard
from fedfleet.training.state import (
    initial_state,
    load_state,
    schema_of,
    state_of,
    trainable_parameters,
)
from fedfleet.types import Kind


def small_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight


def test_schema_of_tells_the_three_kinds_apart() -> None:
    module = small_network()
    module[0].bias.requires_grad_(False)

    kinds = {param.name: param.kind for param in schema_of(module).params}

    assert list(kinds) == list(module.state_dict())
    assert kinds["0.weight"] is kinds["1.weight"] is kinds["3.bias"] is Kind.TRAINABLE
    assert kinds["1.running_mean"] is kinds["1.running_var"] is Kind.STATISTIC
    assert kinds["0.bias"] is Kind.STATISTIC
    assert kinds["1.num_batches_tracked"] is Kind.COUNTER


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), channels_last=st.booleans())
def test_state_round_trip_is_exact(seed: int, channels_last: bool) -> None:
    torch.manual_seed(seed)
    source, target = small_network(), small_network()
    source[1].num_batches_tracked.fill_(2**53 + seed)  # beyond what a float could carry
    source[1].running_var.uniform_()
    if channels_last:
        target = target.to(memory_format=torch.channels_last)
    schema = schema_of(source)

    state = state_of(source, schema)
    load_state(target, state)
    again = state_of(target, schema)

    for kind in Kind:
        assert np.array_equal(again.vector(kind), state.vector(kind))
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)
    assert state.counters.tolist() == [2**53 + seed]
    assert state.counters.dtype == np.int64


def test_state_of_shares_nothing_with_the_module() -> None:
    module = small_network()
    state = state_of(module, schema_of(module))
    before = state.trainable.copy()

    with torch.no_grad():
        for param in module.parameters():
            param.add_(1)

    assert np.array_equal(state.trainable, before)


def test_load_state_keeps_the_parameter_objects_and_takes_read_only_vectors() -> None:
    module = small_network()
    schema = schema_of(module)
    state = state_of(module, schema)
    for kind in Kind:
        state.vector(kind).flags.writeable = False
    params = trainable_parameters(module, schema)

    load_state(module, state)

    for before, after in zip(params, trainable_parameters(module, schema), strict=True):
        assert before is after
    assert [p.shape for p in params] == [s.shape for s in schema.params if s.kind is Kind.TRAINABLE]


def test_tied_weights_stand_once() -> None:
    module, other = Tied(), Tied()

    load_state(other, state_of(module, schema_of(module)))

    assert [param.name for param in schema_of(module).params] == ["first.weight"]
    assert torch.equal(other.second.weight, module.first.weight)


def test_load_state_refuses_another_model() -> None:
    module = small_network()
    other = nn.Linear(2, 2)

    with pytest.raises(SchemaMismatch) as caught:
        load_state(module, state_of(other, schema_of(other)))

    assert caught.value.code == "SCHEMA_MISMATCH"


@pytest.mark.parametrize(
    "module", [nn.Linear(2, 2).double(), nn.Linear(2, 2).half(), nn.LazyLinear(2)]
)
def test_schema_of_refuses_what_cannot_be_exchanged(module: nn.Module) -> None:
    with pytest.raises(SchemaMismatch):
        schema_of(module)


def test_initial_state_follows_the_seed_and_leaves_the_global_generator(
    tiny_card: Callable[..., ModelCard],
) -> None:
    card = tiny_card()
    before = torch.get_rng_state()

    first, second, other = (initial_state(card, seed) for seed in (1, 1, 2))

    assert np.array_equal(first.trainable, second.trainable)
    assert not np.array_equal(first.trainable, other.trainable)
    assert torch.equal(torch.get_rng_state(), before)
