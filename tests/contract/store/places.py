"""Where the stores under test lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store


@dataclass(frozen=True)
class Place:
    url: str

    def open(self) -> Store:
        return open_store(self.url)


PLACES: dict[str, Callable[[Path], Place]] = {
    "sqlite": lambda folder: Place(f"sqlite:{folder / 'state'}"),
}
