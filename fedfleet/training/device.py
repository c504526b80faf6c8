"""Where and how torch computes: device, thread cap, mixed precision, module preparation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import convert_conv2d_weight_memory_format

from fedfleet.errors import RecipeInvalid
from fedfleet.training.config import TrainingConfig


def resolve_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device that a recipe's name means on this machine.

    Raises:
        RecipeInvalid: CUDA is asked for and not there.
    """
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise RecipeInvalid('training.device = "cuda": no CUDA device here; use "auto" or "cpu"')
    if name == "cpu" or not has_cuda:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def check_precision(config: TrainingConfig, device: torch.device) -> None:
    """Refuse mixed precision that the device cannot do.

    Raises:
        RecipeInvalid: float16 without CUDA.
    """
    if config.amp == "float16" and device.type != "cuda":
        raise RecipeInvalid(
            'training.amp = "float16": needs a CUDA device and this worker has none; '
            'use "bfloat16" or "off"'
        )


def autocast(config: TrainingConfig, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass."""
    if config.amp == "off":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, config.amp))


@contextmanager
def thread_cap(threads: int) -> Iterator[None]:
    """Let torch use at most so many threads inside; 0 changes nothing."""
    before = torch.get_num_threads()
    if not 0 < threads < before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic_kernels(device: torch.device) -> Iterator[None]:
    """Make cuDNN choose kernels that give the same bits each time; CPU kernels do anyway."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def prepare(module: nn.Module, config: TrainingConfig, device: torch.device) -> nn.Module:
    """Bring a freshly built module into the form that the recipe asks for, in place.

    Raises:
        RecipeInvalid: batchnorm_momentum is set and no layer keeps running statistics.
    """
    if config.batchnorm_momentum is not None:
        layers = [m for m in module.modules() if isinstance(m, _NormBase) and m.track_running_stats]
        if not layers:
            raise RecipeInvalid(
                f"training.batchnorm_momentum = {config.batchnorm_momentum}: "
                "this model has no layer with running statistics; leave it out"
            )
        for layer in layers:
            layer.momentum = config.batchnorm_momentum
    if config.channels_last:
        convert_conv2d_weight_memory_format(module, torch.channels_last)
    return module.to(device)
