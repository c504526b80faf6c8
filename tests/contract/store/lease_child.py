"""Owns a store as the lines of stdin say; answers each with a line, an error with its code.

    own WAIT_S   owned TOKEN; WAIT_S may be ever
    write NAME   written; a call of writes.py
    lost         lost, as soon as the lease is
    release      released

Usage: python lease_child.py URL LASTS_S
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

from contract.store.writes import WRITES

from fedfleet.errors import FedFleetError
from fedfleet.store.lease import Lease
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store


class Owner:
    def __init__(self, store: Store, lasts_s: float) -> None:
        self._store = store
        self._lasts_s = lasts_s
        self._owned = ExitStack()
        self._lease: Lease | None = None

    def own(self, wait_s: str) -> str:
        patience_s = None if wait_s == "ever" else float(wait_s)
        owned = self._store.own(lasts_s=self._lasts_s, wait_s=patience_s)
        self._lease = self._owned.enter_context(owned)
        return f"owned {self._lease.record.token}"

    def write(self, name: str) -> str:
        WRITES[name](self._store)
        return "written"

    def lost(self) -> str:
        assert self._lease is not None
        self._lease.lost.wait()
        return "lost"

    def release(self) -> str:
        self._owned.close()
        return "released"


def tell(answer: str) -> None:
    sys.stdout.write(answer + "\n")
    sys.stdout.flush()


def main(url: str, lasts_s: float) -> None:
    with open_store(url) as store:
        owner = Owner(store, lasts_s)
        tell("ready")
        for line in sys.stdin:
            word, *arguments = line.split()
            try:
                tell(getattr(owner, word)(*arguments))
            except FedFleetError as error:
                tell(error.code)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
