"""What holds for every test: reproducible property tests, and no task left behind."""

from __future__ import annotations

import asyncio
import inspect
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

# The same examples on every machine and in every run; nothing is written beside the tests.
settings.register_profile(
    "fedfleet",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fedfleet")

# A shell without job control starts what it puts into the background with this signal ignored, as
# make test does with one half of the suite; the processes that tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What a test cancelled or closed may take to end.
GRACE_S = 2.0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every async test the leak check as its first fixture, so that it is torn down last."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.fixturenames.insert(0, "no_leaked_tasks")


@pytest_asyncio.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fail a test whose tasks outlive it and its fixtures."""
    before = asyncio.all_tasks()
    yield
    leaked = asyncio.all_tasks() - before - {asyncio.current_task()}
    if leaked:
        _, leaked = await asyncio.wait(leaked, timeout=GRACE_S)
    names = sorted(f"{task.get_name()}: {task.get_coro()}" for task in leaked)
    for task in leaked:
        task.cancel()
    assert not names, f"tasks left running: {'; '.join(names)}"
