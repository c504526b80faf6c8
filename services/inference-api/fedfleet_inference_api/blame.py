"""Tells what a version is to blame for from everything else that ends a prediction."""

from __future__ import annotations

import logging
from types import TracebackType

from starlette.requests import ClientDisconnect

from fedfleet.errors import FedFleetError, VersionInvalid
from fedfleet_inference_api.servable import Servable

logger = logging.getLogger(__name__)


class VersionFailedError(Exception):
    """A version gave no answer to an image that was fine; another version may.

    Args:
        fault: VersionInvalid where the answer was none, else INTERNAL.
    """

    def __init__(self, servable: Servable, fault: FedFleetError) -> None:
        super().__init__(fault.message)
        self.servable = servable
        self.fault = fault


class Blame:
    """Around the computation alone: what it raises there becomes VersionFailedError.

    Being cancelled, having left, waiting too long and finding no place is nobody's fault and
    passes.
    """

    def __init__(self, servable: Servable) -> None:
        self._servable = servable

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        fault = fault_of(error)
        if fault is not None:
            if fault is not error:
                logger.error("version_failed", exc_info=error)
            raise VersionFailedError(self._servable, fault) from error


def fault_of(error: BaseException | None) -> FedFleetError | None:
    """What is wrong with the version that raised this while it computed; None: nothing."""
    if isinstance(error, VersionInvalid):
        return error
    if isinstance(error, Exception) and not isinstance(error, (FedFleetError, ClientDisconnect)):
        return FedFleetError("the version failed to compute an answer: see the service's log")
    return None
