"""A backend whose place a faster one of the same version takes while it answers."""

from __future__ import annotations

from fedfleet.data.images import Pixels
from fedfleet_inference_api.backends.backend import Answers, Backend


class Replaceable:
    """Computes with one backend, from some batch on with another one.

    Args:
        backend: the first.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def name(self) -> str:
        return self._backend.name

    def replace(self, backend: Backend) -> None:
        """From any thread; a batch that runs ends with the one that it began with."""
        self._backend = backend

    def run(self, images: Pixels) -> Answers:
        return self._backend.run(images)
