"""Versions by name on an event loop of the test, whose loads fail."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
from serving import publish

from fedfleet.errors import FedFleetError, StoreUnavailable, VersionInvalid
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store, VersionRecord
from fedfleet_inference_api.pinned import Pinned
from fedfleet_inference_api.servable import Servable


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path}") as opened:
        publish(opened, 1)
        yield opened


class Upload:
    """What a caller holds while it asks."""


async def refused(pinned: Pinned, uploads: list[weakref.ref[Upload]]) -> FedFleetError:
    upload = Upload()
    uploads.append(weakref.ref(upload))
    try:
        await pinned.servable("digits", "1")
    except FedFleetError as error:
        return error
    raise AssertionError(f"{upload} was answered")


def length(error: BaseException) -> int:
    trace, count = error.__traceback__, 0
    while trace is not None:
        trace, count = trace.tb_next, count + 1
    return count


@pytest.mark.parametrize("kind", [VersionInvalid, StoreUnavailable])
async def test_each_caller_of_a_version_that_is_unfit_gets_an_error_of_its_own(store, kind):
    """One that all raise would keep every caller's upload, and grow with each of them."""
    release = threading.Event()

    def load(record: VersionRecord, alias: str) -> Servable:
        release.wait()
        raise kind("it is not fit")

    asked: list[int] = []

    def at_hand(record: VersionRecord) -> None:
        asked.append(record.number)
        if len(asked) == 3:  # all of them wait for one load
            release.set()

    pinned = Pinned(store.registry, load, at_hand, 1)
    uploads: list[weakref.ref[Upload]] = []
    errors = await asyncio.gather(*(refused(pinned, uploads) for _ in range(3)))
    errors += [await refused(pinned, uploads) for _ in range(3)]

    assert {type(error) for error in errors} == {kind}
    assert len({id(error) for error in errors}) == 6
    assert all(length(error) < 6 and error.__cause__ is None for error in errors)
    assert len({str(error) for error in errors}) == 1
    del errors
    await asyncio.sleep(0)  # the loop itself holds what was gathered, to the end of its turn
    gc.collect()
    assert [upload() for upload in uploads] == [None] * 6
    pinned.close()
