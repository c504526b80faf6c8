"""Starts the inference service and stops it in order."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence

# Read when torch is loaded. Threads that spin while they wait for work take the processors from
# those that decode and answer: on two busy cores a batch then takes twice the time, and more.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from fedfleet.env import command_line, misspelt, read
from fedfleet.errors import FedFleetError
from fedfleet.obs.logs import setup_logging
from fedfleet.store.open import open_store
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.door import listen
from fedfleet_inference_api.safety import check_safety
from fedfleet_inference_api.server import serve
from fedfleet_inference_api.service import InferenceService
from fedfleet_inference_api.signature_check import SignatureCheck
from fedfleet_inference_api.tls import certificate_of

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Run until a signal; exit 0 after an orderly stop, else print one line and exit 1."""
    what = "Answers requests and watches cameras with the model version that is at work."
    command_line("fedfleet-inference-api", what, InferenceConfig).parse_args(argv)
    try:
        _run(read(InferenceConfig, os.environ))
    except FedFleetError as error:
        logger.debug("start_failed", exc_info=True)
        sys.stderr.write(f"fedfleet-inference-api: {error.code}: {error.message}\n")
        sys.exit(1)


def _run(config: InferenceConfig) -> None:
    setup_logging("inference-api", config.log_level)
    # Its prose says what our events and metrics say, and a line for each malformed request.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    for name, meant in misspelt(InferenceConfig, os.environ):
        logger.warning("setting_unknown", extra={"variable": name, "did_you_mean": meant})
    check_safety(config)
    certificate = certificate_of(config)
    signatures = SignatureCheck(config.signer, config.store)
    # The port first: a second instance should fail before it touches the store.
    with listen(config.host, config.inference_port) as listener, open_store(config.store) as store:
        service = InferenceService(config, store, signatures)
        asyncio.run(serve(service, listener, certificate))


if __name__ == "__main__":
    main()
