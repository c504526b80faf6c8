"""Moves the values of a torch module into a model state and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fedfleet.errors import SchemaMismatch
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build_initial
from fedfleet.training.seeding import isolated_rng
from fedfleet.types import Array, Kind, ModelState, ParamSpec, Schema

CPU = torch.device("cpu")


def schema_of(module: nn.Module) -> Schema:
    """Describe a module's persistent tensors in the order of its ``state_dict``.

    Parameters that require a gradient are trainable; integer (and bool) buffers are counters;
    float buffers and frozen parameters are statistics. A tensor that the module holds under
    several names (tied weights) stands once, under the first.

    Raises:
        SchemaMismatch: a tensor cannot be exchanged (not float32, lazy, not a tensor at all).
    """
    trainable = {id(p) for p in module.parameters() if p.requires_grad}
    seen: set[int] = set()
    params: list[ParamSpec] = []
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        kind = _kind(name, tensor, is_trainable=id(tensor) in trainable)
        params.append(ParamSpec(name, tuple(tensor.shape), kind))
    if trainable - seen:
        raise SchemaMismatch("the model trains a parameter that its state_dict does not hold")
    return Schema(tuple(params))


def _kind(name: str, tensor: object, *, is_trainable: bool) -> Kind:
    if not isinstance(tensor, Tensor) or is_lazy(tensor):
        raise SchemaMismatch(f"{name} is not a tensor of a fixed shape; the model cannot be sent")
    if tensor.dtype == torch.float32:
        return Kind.TRAINABLE if is_trainable else Kind.STATISTIC
    if tensor.is_floating_point() or tensor.is_complex():
        raise SchemaMismatch(f"{name} is {tensor.dtype}: models are exchanged in float32")
    return Kind.COUNTER


def state_of(module: nn.Module, schema: Schema) -> ModelState:
    """Copy a module's values out; nothing is shared with the module afterwards."""
    tensors = module.state_dict(keep_vars=True)
    arrays: dict[str, Array] = {
        param.name: tensors[param.name].detach().cpu().numpy() for param in schema.params
    }
    return ModelState.from_tensors(schema, arrays)


def load_state(module: nn.Module, state: ModelState) -> None:
    """Copy a state into a module in place; its parameters stay the same objects.

    Raises:
        SchemaMismatch: the state is of another model; the module is unchanged.
    """
    check_schema(schema_of(module), state)
    targets = module.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, array in state.tensors().items():
            targets[name].copy_(to_tensor(array))


def check_schema(own: Schema, state: ModelState) -> None:
    """Raises SchemaMismatch: the state is of another model."""
    if own != state.schema:
        raise SchemaMismatch(
            f"the state is of model schema {state.schema.digest[:12]}, "
            f"the model here has {own.digest[:12]}"
        )


def trainable_parameters(module: nn.Module, schema: Schema) -> list[nn.Parameter]:
    """Return the module's trainable parameters in schema order, not copied."""
    tensors = module.state_dict(keep_vars=True)
    return [tensors[param.name] for param in schema.params if param.kind is Kind.TRAINABLE]


def initial_state(card: ModelCard, seed: int) -> ModelState:
    """Build the model that a run starts from; the same seed gives the same state."""
    with isolated_rng(seed, CPU):
        module = build_initial(card)
    return state_of(module, schema_of(module))


def to_tensor(array: Array) -> Tensor:
    """View an array as a tensor; copies only what torch cannot view (read-only, odd strides)."""
    can_view = array.flags.writeable and array.flags.c_contiguous
    return torch.from_numpy(array if can_view else np.array(array, order="C"))
