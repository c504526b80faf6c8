"""Measures a version that came from elsewhere: with a network of its own, on given examples."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fedfleet.data.golden import golden_batch
from fedfleet.data.shard import Examples
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.training.batches import Batches
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet.training.device import resolve_device
from fedfleet.training.evaluation import evaluation_mode
from fedfleet.training.local import LocalTrainer
from fedfleet.training.seeding import isolated_rng
from fedfleet.training.state import CPU, load_state
from fedfleet.types import Evaluation, ModelState


def measure_version(
    card: ModelCard, state: ModelState, examples: Examples, config: EvaluationConfig
) -> Evaluation:
    """Count how a version does on examples that are none of its run's.

    Raises:
        DataInvalid: the version reads other images, or knows other classes.
        SchemaMismatch, UnknownModel: the state is not of the card, or cannot be built here.
        TrainingFailed: the version answers NaN or infinity.
    """
    trainer = LocalTrainer(card, TrainingConfig(), config, device="auto")
    # With a detector's average precision, by which it is compared.
    return trainer.evaluate(state, examples, scores=True)


def is_finite_on_golden(card: ModelCard, state: ModelState) -> bool:
    """Whether a version answers the golden batch with finite numbers; True where it reads text.

    Raises:
        SchemaMismatch: the state is of another model.
    """
    if card.inputs.is_tokens:
        return True
    images = golden_batch(card.inputs)
    device = resolve_device("auto")
    module = _built(card, state).to(device)
    examples = Examples(images, np.zeros(len(images), np.int64))
    batches = Batches(examples, card.inputs, len(card.classes), device)
    with evaluation_mode(module), torch.inference_mode():
        answers = module(batches.normalise(batches.take(slice(None))[0]))
    return bool(torch.isfinite(answers).all())


def _built(card: ModelCard, state: ModelState) -> nn.Module:
    with isolated_rng(0, CPU):  # the values are replaced before they are used
        module = build(card)
    load_state(module, state)
    return module
