"""Owns a store whenever it can and writes its token into the audit log until it is refused.

Usage: python takeover_child.py URL NAME LASTS_S
"""

from __future__ import annotations

import sys
from contextlib import suppress

from contract.store.builders import a_deed

from fedfleet.errors import LeaseLost, StoreUnavailable
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store


def write(store: Store, name: str, lasts_s: float) -> None:
    with store.own(name, lasts_s=lasts_s, wait_s=None) as lease:
        deed = a_deed(actor=name, fields={"token": lease.record.token})
        while True:
            store.audit.append(deed)
            # Until then; else it would nearly always be stopped in the middle of a transaction.
            lease.lost.wait(0.01)


def main(url: str, name: str, lasts_s: float) -> None:
    with open_store(url) as store:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            with suppress(LeaseLost, StoreUnavailable):
                write(store, name, lasts_s)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
