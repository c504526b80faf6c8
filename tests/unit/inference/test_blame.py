from __future__ import annotations

import asyncio

import pytest
from detectors import CLASSIFIER, servable
from starlette.requests import ClientDisconnect

from fedfleet.errors import TimedOut, Unavailable, VersionInvalid
from fedfleet_inference_api.blame import Blame, VersionFailedError, fault_of

VERSION = servable(CLASSIFIER)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (VersionInvalid("not finite"), "VERSION_INVALID"),
        (RuntimeError("mat1 and mat2"), "INTERNAL"),
        (MemoryError(), "INTERNAL"),
        (IndexError(), "INTERNAL"),
    ],
)
def test_version_is_blamed_for_what_it_raises(error, code, caplog):
    with pytest.raises(VersionFailedError) as caught, Blame(VERSION):
        raise error

    assert caught.value.servable is VERSION
    assert caught.value.fault.code == code
    assert "mat1" not in caught.value.fault.message
    assert ("version_failed" in caplog.text) is (code == "INTERNAL")


@pytest.mark.parametrize(
    "error",
    [
        TimedOut("late"),
        Unavailable("full"),
        ClientDisconnect(),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
    ],
)
def test_version_is_not_blamed_for_who_waited_or_left(error):
    with pytest.raises(type(error)), Blame(VERSION):
        raise error

    assert fault_of(error) is None
    assert fault_of(None) is None
