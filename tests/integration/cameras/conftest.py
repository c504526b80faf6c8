from __future__ import annotations

from collections.abc import Iterator

import pytest
from filming import RtspServer, missing_server


@pytest.fixture(scope="session")
def rtsp_server_missing() -> str:
    return missing_server()


@pytest.fixture(scope="module")
def rtsp(rtsp_server_missing) -> Iterator[RtspServer]:
    """One server for the tests of a module that leave it as it was."""
    if rtsp_server_missing:
        pytest.skip(rtsp_server_missing)
    server = RtspServer()
    yield server
    server.close()


@pytest.fixture
def own_rtsp(rtsp_server_missing) -> Iterator[RtspServer]:
    """A server that a test may order about."""
    if rtsp_server_missing:
        pytest.skip(rtsp_server_missing)
    server = RtspServer()
    yield server
    server.close()
