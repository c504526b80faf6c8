"""A version that is ready to answer: its module, its card, and what the registry says of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from fedfleet.data.images import Pixels
from fedfleet.errors import ChecksumMismatch, VersionInvalid
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.store.protocols import Blobs, VersionRecord
from fedfleet.training.state import load_state, to_tensor
from fedfleet.types import InputSpec
from fedfleet.wire.weights import decode_state

# Legend: B = batch, C = channels, H = height, W = width, K = classes.


@dataclass(frozen=True, eq=False)
class Servable:
    """One version in memory. Requests hold on to the one they started with.

    Args:
        alias: the alias under which it was found.
        is_verified: the coordinator's signature over the record was checked.
    """

    record: VersionRecord
    alias: str
    card: ModelCard
    module: torch.nn.Module
    is_verified: bool = False

    @property
    def title(self) -> str:
        return f"{self.record.model} version {self.record.number} (round {self.record.round})"

    def probabilities(self, images: Pixels) -> torch.Tensor:
        """Answer images of shape (B, C, H, W), uint8, with float64 of shape (B, K).

        Raises:
            VersionInvalid: the model gave NaN or infinity, or another number of classes.
        """
        with torch.inference_mode():
            logits_BK = self.module(normalise(images, self.card.inputs))
        want = (len(images), len(self.card.classes))
        if tuple(logits_BK.shape) != want:
            raise VersionInvalid(
                f"{self.title} answers with shape {tuple(logits_BK.shape)}, expected {want}"
            )
        if not bool(torch.isfinite(logits_BK).all()):
            raise VersionInvalid(f"{self.title} gives an answer that is not a finite number")
        return torch.softmax(logits_BK.double(), dim=1)

    def warm_up(self) -> None:
        """Answer a black image, so that the first caller does not pay for what torch sets up.

        Raises:
            VersionInvalid: as ``probabilities``.
        """
        spec = self.card.inputs
        self.probabilities(np.zeros((1, spec.channels, spec.height, spec.width), np.uint8))


def normalise(images: Pixels, inputs: InputSpec) -> torch.Tensor:
    """Scale uint8 of shape (B, C, H, W) to [0, 1] and normalise per channel.

    The same two float32 operations as ``training.batches``, so that answers agree to the last bit.
    """
    mean_C11, std_C11 = (
        torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)
        for values in (inputs.mean, inputs.std)
    )
    scale_C11 = (1 / (255 * std_C11)).float()
    shift_C11 = (-mean_C11 / std_C11).float()
    return to_tensor(images).float().mul_(scale_C11).add_(shift_C11)


def load_servable(blobs: Blobs, record: VersionRecord, alias: str) -> Servable:
    """Read, check and build a version; nothing that serves now is touched.

    Raises:
        NotFound, ChecksumMismatch, SchemaMismatch, UnknownModel, VersionInvalid: why it cannot
            be served.
    """
    card = ModelCard.from_json(record.card)
    if card.inputs.is_tokens:
        raise VersionInvalid(
            f"{record.model} version {record.number} reads text; this service answers images only"
        )
    if card.inputs.channels not in (1, 3):
        raise VersionInvalid(
            f"{record.model} version {record.number} takes {card.inputs.channels} channels: "
            "images have 1 (grey) or 3 (colour)"
        )
    data = _read(blobs, record)
    module = build(card)
    load_state(module, decode_state(record.schema, data))
    module.eval().requires_grad_(False)
    return Servable(record, alias, card, module)


def _read(blobs: Blobs, record: VersionRecord) -> bytes:
    size = blobs.size(record.digest)
    if size is not None and size != record.size_bytes:  # before it fills the memory
        raise ChecksumMismatch(
            f"the file of {record.model} version {record.number} has {size} bytes, "
            f"its record says {record.size_bytes}"
        )
    data = blobs.read(record.digest)
    if hashlib.sha256(data).hexdigest() != record.digest:
        raise ChecksumMismatch(
            f"the file of {record.model} version {record.number} is not the one that was "
            "published: its SHA-256 differs"
        )
    return data
