"""Appends deeds to a store's audit log when a line comes; answers with the number of the last.

Usage: python audit_child.py URL ACTOR COUNT
"""

from __future__ import annotations

import sys

from contract.store.builders import a_deed

from fedfleet.store.open import open_store


def tell(answer: object) -> None:
    sys.stdout.write(f"{answer}\n")
    sys.stdout.flush()


def main(url: str, actor: str, count: int) -> None:
    with open_store(url) as store:
        tell("ready")
        sys.stdin.readline()
        for place in range(count):
            record = store.audit.append(a_deed(actor=actor, fields={"place": place}))
        tell(record.number)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
