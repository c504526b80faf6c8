"""A version that is ready to answer: its backends, its card, and what the registry says of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fedfleet.data.images import Pixels
from fedfleet.errors import ChecksumMismatch, VersionInvalid
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.rounds.levels import FULL
from fedfleet.store.protocols import Blobs, VersionRecord
from fedfleet.training.state import load_state
from fedfleet_inference_api.backends.backend import Answers, Backend, Prepared
from fedfleet_inference_api.backends.choice import Backends
from fedfleet_inference_api.backends.plain import PlainTorch
from fedfleet_inference_api.level_slice import at_level

DETECTOR_NUMBERS = 5  # of an anchor beside its classes: a box, and that nothing is there

# Legend: B = batch, C = channels, H = height, W = width, K = classes.


@dataclass(frozen=True, eq=False)
class Servable:
    """One version in memory. Requests hold on to the one they started with.

    Args:
        alias: the alias under which it was found.
        card: of the width that is served, ``level``.
        is_verified: the coordinator's signature over the record was checked.
    """

    record: VersionRecord
    alias: str
    card: ModelCard
    backend: Backend
    level: str = FULL
    is_verified: bool = False

    @property
    def title(self) -> str:
        return f"{self.record.model} version {self.record.number} (round {self.record.round})"

    @property
    def backend_name(self) -> str:
        return self.backend.name

    def run(self, images: Pixels) -> Answers:
        """Answer images of shape (B, C, H, W), uint8, with what the model gives: shape (B, ...).

        Raises:
            VersionInvalid: it gave another number of answers, or of classes.
        """
        answers = self.backend.run(images)
        is_detector = self.card.kind == "detection"
        numbers = len(self.card.classes) + (DETECTOR_NUMBERS if is_detector else 0)
        dimensions = 3 if is_detector else 2
        if (answers.ndim, len(answers), answers.shape[-1]) != (dimensions, len(images), numbers):
            raise VersionInvalid(
                f"{self.title} answers with shape {answers.shape} to {len(images)} images; "
                f"expected {dimensions} axes, the last of {numbers}"
            )
        return answers

    def fault(self, answer: Answers) -> VersionInvalid | None:
        """What is wrong with one image's answer: NaN or infinity in it, or nothing."""
        if np.isfinite(answer).all():
            return None
        return VersionInvalid(f"{self.title} gives an answer that is not a finite number")

    def answers(self, images: Pixels) -> Answers:
        """As ``run``, with every answer checked.

        Raises:
            VersionInvalid: as ``run``, or an answer is NaN or infinity.
        """
        answers = self.run(images)
        fault = self.fault(answers)
        if fault is not None:
            raise fault
        return answers

    def probabilities(self, images: Pixels) -> npt.NDArray[np.float64]:
        """Answer images with the probability of each class, shape (B, K); of a classifier only.

        Raises:
            VersionInvalid: as ``answers``.
        """
        return softmax(self.answers(images))

    def warm_up(self, batch: int = 1) -> None:
        """Answer black images, so that the first caller does not pay for what is set up.

        Raises:
            VersionInvalid: as ``answers``.
        """
        spec = self.card.inputs
        self.answers(np.zeros((batch, spec.channels, spec.height, spec.width), np.uint8))


def softmax(logits: Answers) -> npt.NDArray[np.float64]:
    """Probabilities from logits along the last axis, to the last bit those of evaluation."""
    probabilities: npt.NDArray[np.float64] = (
        torch.from_numpy(np.ascontiguousarray(logits)).double().softmax(-1).numpy()
    )
    return probabilities


def load_servable(
    blobs: Blobs,
    record: VersionRecord,
    alias: str,
    *,
    level: str = FULL,
    backends: Backends | None = None,
    is_awaited: bool = False,
) -> Servable:
    """Read, check and build a version; nothing that serves now is touched.

    Args:
        level: the width to cut it to.
        backends: chooses what computes it; None is plain torch.
        is_awaited: see ``Backends.of``.

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
    card, state = at_level(record, card, _read(blobs, record), level)
    module = build(card)
    load_state(module, state)
    prepared = Prepared(module, card.inputs)
    backend = (
        backends.of(card, prepared, is_awaited=is_awaited) if backends else PlainTorch(prepared)
    )
    return Servable(record, alias, card, backend, level)


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
