"""Who waits for the model, and who is computed together next. No threads and no clock in here.

Dynamic batching as Triton's without a delay: nobody waits for others to come, and what has come
while the model computed is computed together.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedfleet.data.images import Pixels
from fedfleet.errors import Unavailable
from fedfleet_inference_api.servable import Servable

# Callers of the REST interface; cameras; copies of callers' images for a version on trial, of
# which nobody waits for the answer.
Lane = Literal["callers", "cameras", "shadow"]
LANES: tuple[Lane, ...] = ("callers", "cameras", "shadow")


@dataclass(frozen=True, eq=False)
class Forwarded:
    """What the model said of one image.

    Args:
        answer: what the model's forward gives for the image: logits (K,) of a classifier.
        queue_s: time until the model's thread took it up.
        forward_s: time in the model, of all the batch.
        batch: images that were computed together.
    """

    answer: npt.NDArray[np.float32]
    queue_s: float
    forward_s: float
    batch: int


@dataclass(eq=False)
class Job:
    """One image that waits for the model.

    Args:
        image: uint8, shape (C, H, W).
        asked_s: when it came, on the clock of ``deadline_s``.
        deadline_s: after which nobody wants the answer.
        is_gone: whether whoever asked has left.
        loop: of an asyncio future, None for one of ``concurrent.futures``.
    """

    servable: Servable
    image: Pixels
    lane: Lane
    asked_s: float
    future: asyncio.Future[Forwarded] | concurrent.futures.Future[Forwarded]
    loop: asyncio.AbstractEventLoop | None = None
    deadline_s: float | None = None
    is_gone: Callable[[], bool] = field(default=lambda: False)

    def begin(self) -> bool:
        """Whether somebody still waits; from now on a thread that waits cannot take it back."""
        if isinstance(self.future, concurrent.futures.Future):
            return self.future.set_running_or_notify_cancel() and not self.is_gone()
        return not self.future.cancelled() and not self.is_gone()


@dataclass(frozen=True)
class Taken:
    """What to do next: a batch of one version, and who is not computed any more."""

    batch: tuple[Job, ...] = ()
    late: tuple[Job, ...] = ()
    gone: tuple[Job, ...] = ()


class Batcher:
    """The queues before the model; not safe from several threads.

    Versions and lanes take turns, a batch each, so that none waits for the backlog of another.
    The shadow's turn comes when nobody else waits, and is one image.

    Args:
        max_batch: images that are computed together.
        limits: images that may wait in each lane.
    """

    def __init__(self, max_batch: int, limits: Mapping[Lane, int]) -> None:
        self._max_batch = max_batch
        self._limits = limits
        self.waiting: dict[Lane, int] = dict.fromkeys(LANES, 0)
        # Queues that are not empty, the next one first; those of the shadow apart.
        self._first: OrderedDict[tuple[Lane, Servable], deque[Job]] = OrderedDict()
        self._last: OrderedDict[tuple[Lane, Servable], deque[Job]] = OrderedDict()

    def __len__(self) -> int:
        return sum(self.waiting.values())

    def put(self, job: Job) -> None:
        """Let a job wait.

        Raises:
            Unavailable: its lane is full.
        """
        if self.waiting[job.lane] >= self._limits[job.lane]:
            raise Unavailable(
                f"{self.waiting[job.lane]} images of {job.lane} wait for the model already: "
                "try again in a second"
            )
        self.waiting[job.lane] += 1
        queues = self._last if job.lane == "shadow" else self._first
        queues.setdefault((job.lane, job.servable), deque()).append(job)

    def take(self, now_s: float) -> Taken:
        """Take the next batch out, and with it those whose turn came too late."""
        batch: list[Job] = []
        late: list[Job] = []
        gone: list[Job] = []
        while not batch and (queues := self._first or self._last):
            key, queue = queues.popitem(last=False)
            # Of the shadow one image: whoever comes meanwhile waits for all of what is computed.
            most = 1 if key[0] == "shadow" else self._max_batch
            while queue and len(batch) < most:
                job = queue.popleft()
                self.waiting[job.lane] -= 1
                if not job.begin():
                    gone.append(job)
                elif job.deadline_s is not None and now_s >= job.deadline_s:
                    late.append(job)
                else:
                    batch.append(job)
            if queue:
                queues[key] = queue  # behind the others
        return Taken(tuple(batch), tuple(late), tuple(gone))

    def clear(self) -> tuple[Job, ...]:
        """Take everything out."""
        jobs = [*self._first.values(), *self._last.values()]
        self._first.clear()
        self._last.clear()
        self.waiting = dict.fromkeys(LANES, 0)
        return tuple(job for queue in jobs for job in queue)
