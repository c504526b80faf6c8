"""What a recipe's kind asks of its model, its data and its training."""

from __future__ import annotations

from fedfleet.algorithms.catalog import AlgorithmConfig, make_algorithm
from fedfleet.data.catalog import DatasetSpec
from fedfleet.data.config import DataConfig
from fedfleet.errors import RecipeInvalid
from fedfleet.models.config import BUILT_IN, OF_BOXES, ModelConfig, ModelKind
from fedfleet.training.config import TrainingConfig

_ANSWERS = {"classification": "classes", "detection": "boxes"}


def check_kind(
    kind: ModelKind, model: ModelConfig, training: TrainingConfig, algorithm: AlgorithmConfig
) -> None:
    """Refuse what does not go together; without the data set, which ``check_data`` looks at.

    Raises:
        RecipeInvalid: naming the field.
    """
    name = model.architecture
    if (kind == "detection") != (name in OF_BOXES):
        fitting = sorted(n for n in BUILT_IN if (kind == "detection") == (n in OF_BOXES))
        other = "classification" if kind == "detection" else "detection"
        raise RecipeInvalid(
            f'model.architecture = "{name}": does not answer with {_ANSWERS[kind]}, as kind = '
            f'"{kind}" wants; take one of {", ".join(fitting)}, or set kind = "{other}"'
        )
    if kind == "detection":
        _check_detection(training, algorithm)


def _check_detection(training: TrainingConfig, algorithm: AlgorithmConfig) -> None:
    """Refuse what is defined for the class of a whole image only."""
    for field, given in (
        ("label_smoothing", training.label_smoothing),
        ("mask_absent", training.mask_absent),
    ):
        if given:
            raise RecipeInvalid(
                f"training.{field}: is of the cross-entropy of whole images, which kind = "
                '"detection" does not train; leave it out'
            )
    if make_algorithm(algorithm).exemplars:
        raise RecipeInvalid(
            f'algorithm.name = "{algorithm.name}": compares what models answer to public examples '
            'class by class, which kind = "detection" has not; take another approximator'
        )


def check_data(kind: ModelKind, data: DataConfig, spec: DatasetSpec) -> None:
    """Refuse a data set of another kind.

    Raises:
        RecipeInvalid: naming both.
    """
    if spec.kind != kind:
        raise RecipeInvalid(
            f'data.dataset = "{data.dataset}": holds examples for kind = "{spec.kind}", the '
            f'recipe says kind = "{kind}"'
        )
