"""Starts the inference service and stops it in order."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from fedfleet.env import read
from fedfleet.errors import FedFleetError
from fedfleet.obs.logs import setup_logging
from fedfleet.rpc.exposure import check_exposure
from fedfleet.store.open import open_store
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.server import listen, serve
from fedfleet_inference_api.service import InferenceService

logger = logging.getLogger(__name__)


def main() -> None:
    """Run until a signal; exit 0 after an orderly stop, else print one line and exit 1."""
    try:
        _run(read(InferenceConfig, os.environ))
    except FedFleetError as error:
        logger.debug("start_failed", exc_info=True)
        sys.stderr.write(f"fedfleet-inference-api: {error.code}: {error.message}\n")
        sys.exit(1)


def _run(config: InferenceConfig) -> None:
    setup_logging("inference-api", config.log_level)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # its prose says what our events say
    check_exposure(config.host, config.insecure, "the inference service")
    # The port first: a second instance should fail before it touches the store.
    with listen(config.host, config.inference_port) as listener, open_store(config.store) as store:
        asyncio.run(serve(InferenceService(config, store), listener))


if __name__ == "__main__":
    main()
