"""Writes to a store from two threads, over all that its server goes through; prints what returned.

Usage: python redis_kill_child.py URL NAME
"""

from __future__ import annotations

import itertools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from contract.store.builders import a_deed, an_entry, an_update

from fedfleet.errors import StoreUnavailable
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store

SPEAKING = threading.Lock()


def tell(*words: object) -> None:
    with SPEAKING:
        sys.stdout.write(" ".join(map(str, words)) + "\n")
        sys.stdout.flush()


def write(store: Store, name: str, number: int) -> None:
    """Three writes, each told of when it returned; one that did not is not tried again."""
    mark = f"{name}.{number}"
    digest = store.blobs.put(mark.encode())
    tell("blob", digest)
    update = an_update(mark.encode(), assignment_id=mark)
    if store.journal.accept_update(update, an_entry(kind=mark)):
        tell("update", mark)
    store.audit.append(a_deed(object=mark))
    tell("deed", mark)


def write_for_ever(store: Store, name: str) -> None:
    for number in itertools.count():
        try:
            write(store, name, number)
        except StoreUnavailable:
            tell("away", number)


def main(url: str, name: str) -> None:
    with open_store(url) as store:
        tell("ready")
        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(lambda part: write_for_ever(store, name + part), "ab"):
                pass


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
