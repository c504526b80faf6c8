from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import state

from fedfleet.algorithms.base import Received
from fedfleet.algorithms.vectors import check_sgd, kept, parts_of
from fedfleet.training.config import TrainingConfig


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_of_cuts_a_flat_vector_like_the_parameters(dtype: torch.dtype) -> None:
    params = [torch.zeros(2, 3, dtype=dtype), torch.zeros((), dtype=dtype), torch.zeros(4)]
    vector = np.arange(11, dtype=np.float32)
    vector.flags.writeable = False  # as what is decoded from a blob

    parts = parts_of(vector)(params)

    assert [(tuple(p.shape), p.dtype) for p in parts] == [(tuple(p.shape), p.dtype) for p in params]
    assert torch.cat([part.reshape(-1) for part in parts]).tolist() == list(range(11))


def test_parts_of_copies_and_cuts_once() -> None:
    params, vector = [torch.zeros(3)], np.ones(3, np.float32)
    cut = parts_of(vector)
    first = cut(params)

    first[0].zero_()

    assert cut(params) is first
    assert vector.tolist() == [1.0, 1.0, 1.0]


def test_kept_is_zero_like_the_model_until_the_worker_keeps_a_vector() -> None:
    version = state()
    own = np.full_like(version.trainable, 2.0)

    first = kept(Received(version, {}, {}), "own")
    later = kept(Received(version, {}, {"own": own}), "own")

    assert (first.dtype, first.tolist()) == (np.float32, [0.0] * version.trainable.size)
    assert later is own


def test_check_sgd_allows_momentum_and_nothing_but_sgd() -> None:
    check_sgd(TrainingConfig(momentum=0.9, nesterov=True))
    with pytest.raises(ValueError, match='it is "adam"'):
        check_sgd(TrainingConfig(optimizer="adam"))
