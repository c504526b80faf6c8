"""Starts the coordinator: ``fedfleet-coordinator``, settings from FEDFLEET_ variables."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

# grpc, which reads this when it is imported, would write a line for each handshake that fails.
os.environ["GRPC_VERBOSITY"] = os.environ.get("GRPC_VERBOSITY", "ERROR")

from fedfleet.env import command_line, misspelt, read
from fedfleet.errors import FedFleetError, StateInUse, StoreFull, StoreUnavailable
from fedfleet.obs.logs import prints_as_records, setup_logging
from fedfleet.store.open import open_store
from fedfleet_coordinator.arenas import limit_arenas
from fedfleet_coordinator.config import CoordinatorConfig
from fedfleet_coordinator.descriptors import raise_limit
from fedfleet_coordinator.service import Coordinator

logger = logging.getLogger(__name__)


async def serve(config: CoordinatorConfig) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    _on_signal(stop.set)
    with open_store(config.store) as store:
        coordinator = Coordinator(config, store)

        def end() -> None:
            stop.set()
            coordinator.give_up()

        _on_signal(end)
        try:
            await coordinator.start()
            await coordinator.run_until(stop)
        except (StateInUse, StoreFull, StoreUnavailable):
            if not stop.is_set():
                raise
        finally:
            await coordinator.close()


def _on_signal(call: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, call)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service; 0 after a graceful stop, 1 after an error in one line on stderr."""
    what = "Coordinates training over a fleet of workers."
    command_line("fedfleet-coordinator", what, CoordinatorConfig).parse_args(argv)
    try:
        config = read(CoordinatorConfig, os.environ)
        setup_logging("coordinator", config.log_level)
        for name, meant in misspelt(CoordinatorConfig, os.environ):
            logger.warning("setting_unknown", extra={"variable": name, "did_you_mean": meant})
        limit_arenas()
        raise_limit()
        with prints_as_records():
            asyncio.run(serve(config))
    except FedFleetError as error:
        sys.stderr.write(f"fedfleet-coordinator: {error.code}: {error.message}\n")
        return 1
    except Exception:
        logger.exception("coordinator_failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
