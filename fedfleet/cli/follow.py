"""Follows a run from beside the processes that carry it out."""

from __future__ import annotations

import queue
import threading
import time
from typing import Union

from fedfleet.cli.children import Children
from fedfleet.cli.documents import is_over
from fedfleet.cli.live import RunView
from fedfleet.errors import FedFleetError
from fedfleet.rpc.control import ControlClient
from fedfleet.v1 import control_service_pb2 as pb

WORKERS_EVERY_S = 0.5
LOOK_S = 0.1

# What the thread that watches the run says: an event, the end, or an error.
_News = Union[pb.RunEvent, FedFleetError, None]


def submit_or_resume(client: ControlClient, recipe: str) -> str:
    """Submit a recipe, or find the run of it that was left unfinished; returns the run's id."""
    for run in client.list_runs():
        if run.recipe == recipe and not is_over(run.state):
            return run.run_id
    return client.submit_run(recipe).run_id


def follow(client: ControlClient, run_id: str, children: Children, view: RunView) -> None:
    """Show the run until it ends; raises when a process dies or the coordinator is lost."""
    news: queue.Queue[_News] = queue.Queue()
    watcher = threading.Thread(
        target=_watch, args=(client, run_id, news), name="watch", daemon=True
    )
    watcher.start()
    asked_s = 0.0
    while True:
        children.check()
        if time.monotonic() - asked_s > WORKERS_EVERY_S:
            view.workers(client.list_workers())
            asked_s = time.monotonic()
        try:
            item = news.get(timeout=LOOK_S)
        except queue.Empty:
            continue
        if item is None:
            view.workers(client.list_workers())
            return
        if isinstance(item, FedFleetError):
            children.check()
            raise item
        view.event(item)


def _watch(client: ControlClient, run_id: str, news: queue.Queue[_News]) -> None:
    """Pass a run's events on; ends when the run or the client does."""
    try:
        for event in client.watch_run(run_id):
            news.put(event)
        news.put(None)
    except FedFleetError as error:
        news.put(error)
