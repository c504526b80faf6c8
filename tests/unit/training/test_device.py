import pytest
import torch
from torch import nn

from fedfleet.errors import RecipeInvalid
from fedfleet.training.config import TrainingConfig
from fedfleet.training.device import check_precision, prepare, resolve_device, thread_cap

CPU = torch.device("cpu")
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")


@without_cuda
def test_auto_takes_the_cpu_where_there_is_no_cuda() -> None:
    assert resolve_device("auto") == resolve_device("cpu") == CPU


@without_cuda
def test_cuda_is_refused_where_there_is_none() -> None:
    with pytest.raises(RecipeInvalid, match=r'training\.device = "cuda"') as caught:
        resolve_device("cuda")

    assert caught.value.code == "RECIPE_INVALID"


def test_float16_is_refused_on_a_cpu() -> None:
    with pytest.raises(RecipeInvalid, match=r'training\.amp = "float16"') as caught:
        check_precision(TrainingConfig(amp="float16"), CPU)

    assert caught.value.code == "RECIPE_INVALID"


def test_thread_cap_holds_inside_only() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with thread_cap(1):
            assert torch.get_num_threads() == 1
        with thread_cap(8):
            assert torch.get_num_threads() == 2
        with thread_cap(0):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_prepare_sets_batchnorm_momentum_and_memory_format() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.01))
    config = TrainingConfig(batchnorm_momentum=0.3, channels_last=True)

    prepared = prepare(module, config, CPU)

    assert prepared[1].momentum == 0.3
    assert prepared[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_prepare_refuses_batchnorm_momentum_that_would_be_ignored() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))

    with pytest.raises(RecipeInvalid, match=r"batchnorm_momentum = 0\.3") as caught:
        prepare(module, TrainingConfig(batchnorm_momentum=0.3), CPU)

    assert caught.value.code == "RECIPE_INVALID"
