"""Two backends for one version: one for few images, one for full batches."""

from __future__ import annotations

from fedfleet.data.images import Pixels
from fedfleet_inference_api.backends.backend import Answers, Backend


class Mixed:
    """Computes each batch with the backend that is the faster one for its size.

    Args:
        most: images that ``few`` computes; ``many`` computes larger batches.
    """

    def __init__(self, few: Backend, many: Backend, most: int) -> None:
        self._few = few
        self._many = many
        self._most = most

    @property
    def name(self) -> str:
        return f"{self._few.name} up to {self._most}, then {self._many.name}"

    def run(self, images: Pixels) -> Answers:
        backend = self._few if len(images) <= self._most else self._many
        return backend.run(images)
