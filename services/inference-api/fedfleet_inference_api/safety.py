"""Refuses settings that would serve everybody beyond this machine, unless asked to by name."""

from __future__ import annotations

import logging

from fedfleet.errors import InsecureAddress
from fedfleet.rpc.exposure import check_exposure, is_loopback
from fedfleet_inference_api.config import InferenceConfig

logger = logging.getLogger(__name__)

ENDPOINT = "the inference service"


def check_safety(config: InferenceConfig) -> None:
    """Return if the service may listen with these settings, warning where that is unsafe.

    Raises:
        InsecureAddress: beyond loopback without TLS or without keys, and not allowed by name.
    """
    if config.inference_certificate is None:
        check_exposure(config.host, config.insecure, ENDPOINT)
    if config.asks_for_keys or is_loopback(config.host):
        return
    if not config.insecure:
        raise InsecureAddress(
            f"{ENDPOINT} would answer whoever reaches {config.host or 'any of its addresses'}: "
            "leave FEDFLEET_REST_AUTH at auto, or set FEDFLEET_INSECURE=1 if everybody who can "
            "reach that address is trusted"
        )
    logger.warning(
        "insecure_endpoint",
        extra={"endpoint": ENDPOINT, "host": config.host, "reason": "no keys beyond loopback"},
    )
