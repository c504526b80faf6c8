"""Sets an alias at the revision that each line of stdin names; answers won or lost.

Usage: python race_child.py URL NUMBER
"""

from __future__ import annotations

import sys

from fedfleet.errors import Conflict
from fedfleet.store.open import open_store


def tell(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def main(url: str, number: int) -> None:
    with open_store(url) as store:
        tell("ready")
        for line in sys.stdin:
            try:
                store.registry.set_alias("digits", "production", number, int(line))
                tell("won")
            except Conflict:
                tell("lost")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
