"""A real server on loopback for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from raising_server import Served, serving


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as one:
        yield one
