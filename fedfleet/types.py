"""The plain values that every box shares: schema, model state, update, evaluation.

Only numpy and the standard library: whatever may not import torch or grpc may import this.
Legend: P = trainable elements, S = statistic elements, N = counter elements, C = classes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fedfleet.errors import SchemaMismatch

FloatVector = npt.NDArray[np.float32]
CounterVector = npt.NDArray[np.int64]
# One array of whatever dtype; the names of shapes and dtypes stand in each docstring.
Array = npt.NDArray[Any]
# What a JSON document can hold; the leaves of records that the store keeps as text.
Json = Mapping[str, Any]

# Names of workers and of people; what a name may be is said in these words.
NAME_RULE = "1 to 64 characters of A-Z a-z 0-9 . _ -, and not . or .. alone"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Names of versions beside their numbers, which they must not be taken for.
ALIAS_RULE = "1 to 64 characters of A-Z a-z 0-9 . _ - and no number"
_NUMBER = re.compile("[0-9]{1,18}")


def is_name(text: str) -> bool:
    """Whether a text may name a worker or a person."""
    # Those two mean something else in a path, and SPIFFE forbids them.
    return _NAME.fullmatch(text) is not None and text not in (".", "..")


def is_version_number(text: str) -> bool:
    """Whether a text names a version by its number."""
    return _NUMBER.fullmatch(text) is not None


def is_alias(text: str) -> bool:
    """Whether a text may be an alias."""
    return _NAME.fullmatch(text) is not None and not is_version_number(text)


class Kind(str, Enum):
    """The three kinds of state; only trainable parameters are optimised, clipped or encoded."""

    TRAINABLE = "trainable"
    STATISTIC = "statistic"
    COUNTER = "counter"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype in which a vector of this kind is held and sent."""
        return np.dtype(np.int64 if self is Kind.COUNTER else np.float32)


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """One named tensor of a model: where it stands and what may be done to it."""

    name: str
    shape: tuple[int, ...]
    kind: Kind

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Schema:
    """The ordered tensors of a model; two models can exchange updates when digests agree."""

    params: tuple[ParamSpec, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the names, shapes and kinds in order."""
        rows = [[p.name, list(p.shape), p.kind.value] for p in self.params]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    def elements(self, kind: Kind) -> int:
        """The length of this kind's flat vector."""
        return sum(p.elements for p in self.params if p.kind is kind)

    def layout(self, kind: Kind) -> Iterator[tuple[ParamSpec, slice]]:
        """Yield each tensor of a kind with its place in the flat vector."""
        start = 0
        for param in self.params:
            if param.kind is kind:
                yield param, slice(start, start + param.elements)
                start += param.elements

    def to_json(self) -> list[Json]:
        return [{"name": p.name, "shape": list(p.shape), "kind": p.kind.value} for p in self.params]

    @classmethod
    def from_json(cls, rows: list[Json]) -> Schema:
        return cls(tuple(ParamSpec(r["name"], tuple(r["shape"]), Kind(r["kind"])) for r in rows))


@dataclass(frozen=True, eq=False)
class ModelState:
    """The values of a model as one flat vector per kind, in schema order. Not to be mutated.

    Args:
        trainable: float32, shape (P,).
        statistics: float32, shape (S,): running means and variances of normalisation layers.
        counters: int64, shape (N,): for example batches tracked.
    """

    schema: Schema
    trainable: FloatVector
    statistics: FloatVector
    counters: CounterVector

    def __post_init__(self) -> None:
        for kind in Kind:
            vector, want = self.vector(kind), self.schema.elements(kind)
            if vector.shape != (want,) or vector.dtype != kind.dtype:
                raise SchemaMismatch(
                    f"the {kind.value} vector holds {vector.shape} {vector.dtype}, "
                    f"the model's schema asks for ({want},) {kind.dtype}"
                )

    def vector(self, kind: Kind) -> Array:
        """The flat vector of one kind, not copied."""
        if kind is Kind.TRAINABLE:
            return self.trainable
        return self.statistics if kind is Kind.STATISTIC else self.counters

    def tensors(self) -> dict[str, Array]:
        """Every tensor by name, shaped, as views of the flat vectors."""
        return {
            param.name: self.vector(kind)[place].reshape(param.shape)
            for kind in Kind
            for param, place in self.schema.layout(kind)
        }

    @classmethod
    def from_tensors(cls, schema: Schema, tensors: Mapping[str, Array]) -> ModelState:
        """Flatten named tensors into the schema's order.

        Raises:
            SchemaMismatch: a tensor is missing, unknown, or of another shape.
        """
        want = {p.name: p.shape for p in schema.params}
        if tensors.keys() != want.keys():
            # A file's names may be anything: what is said of them stays one short line.
            odd = [ascii(name)[1:-1][:64] for name in sorted(tensors.keys() ^ want.keys())[:3]]
            raise SchemaMismatch(f"these tensors are on one side only: {', '.join(odd)}")
        for name, tensor in tensors.items():
            if tensor.shape != want[name]:
                raise SchemaMismatch(f"{name} has shape {tensor.shape}, expected {want[name]}")
        vectors = []
        for kind in Kind:
            vector = np.empty(schema.elements(kind), kind.dtype)
            for param, place in schema.layout(kind):
                vector[place] = tensors[param.name].reshape(-1)
            vectors.append(vector)
        return cls(schema, *vectors)


class UpdateSection(Protocol):
    """One flat vector of an update, in schema order, as values or still encoded.

    The names of the built-in sections are the kinds' values: ``trainable`` is a delta (trained
    minus received), ``statistic`` and ``counter`` are values. An algorithm may add sections.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def elements(self) -> int: ...

    @property
    def values(self) -> Array:
        """The whole vector. Not to be mutated."""
        ...

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Pairs of start and values, in order without gaps; each is valid until the next."""
        ...

    def sparse(self) -> tuple[Array, Array] | None:
        """Increasing positions and their values when all others are known to be zero."""
        ...


@dataclass(frozen=True, eq=False)
class Section:
    """An ``UpdateSection`` that holds its values."""

    name: str
    kind: Kind
    values: Array

    @property
    def elements(self) -> int:
        return self.values.size

    def blocks(self) -> Iterator[tuple[int, Array]]:
        yield 0, self.values

    def sparse(self) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class UpdateHeader:
    """What an update says of itself.

    Args:
        base_digest: SHA-256 of the version that was trained from.
        weight: number of training samples, > 0.
        steps: optimizer steps taken.
        lr_sum: sum over the steps of the learning rate used (1 where steps have unit length).
    """

    run_id: str
    round: int
    assignment_id: str
    worker_id: str
    base_digest: str
    schema_digest: str
    weight: float
    steps: int
    lr_sum: float
    level: str = "a"
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Update:
    """What a train assignment returns: a header and the sections."""

    header: UpdateHeader
    sections: tuple[UpdateSection, ...]

    def section(self, name: str) -> UpdateSection:
        for section in self.sections:
            if section.name == name:
                return section
        raise SchemaMismatch(f"the update carries no section {name!r}")


# Scores of a detector: its mean average precision at an overlap of 0.5, and that of a class.
MAP50 = "map50"
CLASS_AP50 = "ap50/"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a version did on some labelled data. Counts are exact, so evaluations can be added.

    Of a detector the boxes are counted: those that are there (``samples``), that it finds
    (``correct`` and ``top5``), that it answers (``class_predicted``); and its own loss.

    Args:
        samples: number of examples.
        loss_sum: sum of the cross-entropy in nats over the examples.
        correct, top5: examples whose label was the first answer, among the first five.
        class_samples, class_correct, class_predicted: length C, per class.
        confusion: examples per label (C rows) and answer (C columns); empty where not counted.
        scores: measures by name that cannot be added, such as a detector's ``map50``; of the sum
            of two evaluations there are none.
    """

    samples: int
    loss_sum: float
    correct: int
    top5: int
    class_samples: tuple[int, ...]
    class_correct: tuple[int, ...]
    class_predicted: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        return self.loss_sum / self.samples if self.samples else math.nan

    @property
    def accuracy(self) -> float:
        """Of a detector its recall."""
        return self.correct / self.samples if self.samples else math.nan

    @property
    def quality(self) -> float:
        """What versions are told apart by: a detector's ``map50`` where measured, else accuracy."""
        return self.scores.get(MAP50, self.accuracy)

    def class_score(self, name: str) -> float | None:
        """A detector's average precision for a class, where it was measured."""
        return self.scores.get(CLASS_AP50 + name)

    def __add__(self, other: Evaluation) -> Evaluation:
        """The evaluation on both data sets together (exact, but for the loss's rounding).

        Scores are of neither, and left out.
        """
        if len(self.class_samples) != len(other.class_samples):
            raise SchemaMismatch("evaluations over different numbers of classes cannot be added")

        def both(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(a + b for a, b in zip(left, right, strict=True))

        return Evaluation(
            samples=self.samples + other.samples,
            loss_sum=self.loss_sum + other.loss_sum,
            correct=self.correct + other.correct,
            top5=self.top5 + other.top5,
            class_samples=both(self.class_samples, other.class_samples),
            class_correct=both(self.class_correct, other.class_correct),
            class_predicted=both(self.class_predicted, other.class_predicted),
            # Counted on one side only, it would be of some of the examples.
            confusion=tuple(map(both, self.confusion, other.confusion)),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "loss": self.loss if self.samples else None,
            "accuracy": self.accuracy if self.samples else None,
            "loss_sum": self.loss_sum,
            "correct": self.correct,
            "top5": self.top5,
            "class_samples": list(self.class_samples),
            "class_correct": list(self.class_correct),
            "class_predicted": list(self.class_predicted),
            **({"confusion": [list(row) for row in self.confusion]} if self.confusion else {}),
            **({"scores": dict(self.scores)} if self.scores else {}),
        }

    @classmethod
    def from_json(cls, value: Json) -> Evaluation:
        return cls(
            samples=value["samples"],
            loss_sum=value["loss_sum"],
            correct=value["correct"],
            top5=value["top5"],
            class_samples=tuple(value["class_samples"]),
            class_correct=tuple(value["class_correct"]),
            class_predicted=tuple(value["class_predicted"]),
            confusion=tuple(map(tuple, value.get("confusion", ()))),
            scores=dict(value.get("scores", {})),
        )


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What one example looks like to a model: an image, or a sequence of token numbers.

    Images are uint8 of shape (channels, height, width), normalised after division by 255. Token
    sequences are uint8 of shape (width,); they have no channel, and nothing is done to them.

    Args:
        mean, std: one value per channel.
        vocabulary: how many token numbers there are, from 0; 0 for images.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    vocabulary: int = 0

    @classmethod
    def tokens(cls, length: int, vocabulary: int) -> InputSpec:
        """The inputs of a model that reads sequences of so many tokens."""
        return cls(channels=0, height=1, width=length, mean=(), std=(), vocabulary=vocabulary)

    @property
    def is_tokens(self) -> bool:
        return self.vocabulary > 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return (self.width,) if self.is_tokens else (self.channels, self.height, self.width)

    def to_json(self) -> dict[str, Any]:
        """Plain values; those of images are as they were before there were tokens."""
        plain = {
            "channels": self.channels,
            "height": self.height,
            "width": self.width,
            "mean": list(self.mean),
            "std": list(self.std),
        }
        return {**plain, "vocabulary": self.vocabulary} if self.is_tokens else plain

    @classmethod
    def from_json(cls, value: Json) -> InputSpec:
        return cls(
            channels=value["channels"],
            height=value["height"],
            width=value["width"],
            mean=tuple(value["mean"]),
            std=tuple(value["std"]),
            vocabulary=value.get("vocabulary", 0),
        )
