from __future__ import annotations

from pathlib import Path

import pytest

from fedfleet.errors import InsecureAddress
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.safety import check_safety

TLS = {"inference_certificate": Path("c"), "inference_key": Path("k")}


@pytest.mark.parametrize(
    ("settings", "reasons"),
    [
        ({}, []),
        ({"rest_auth": "off"}, []),
        ({"host": "::1", "rest_auth": "on"}, []),
        ({"host": "0.0.0.0", **TLS}, []),
        ({"host": "0.0.0.0", "insecure": True}, ["no TLS beyond loopback"]),
        ({"host": "0.0.0.0", "insecure": True, "rest_auth": "off", **TLS}, ["no keys"]),
        ({"host": "0.0.0.0", "insecure": True, "rest_auth": "off"}, ["no TLS", "no keys"]),
    ],
)
def test_what_is_safe_or_asked_for_by_name_may_listen(settings, reasons, caplog):
    check_safety(InferenceConfig(**settings))

    warnings = [r for r in caplog.records if r.levelname == "WARNING"]
    assert [record.message for record in warnings] == ["insecure_endpoint"] * len(reasons)
    assert all(r.reason.startswith(reason) for r, reason in zip(warnings, reasons, strict=True))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"host": "0.0.0.0"}, "without TLS"),
        ({"host": ""}, "without TLS"),
        ({"host": "198.51.100.1", "rest_auth": "off"}, "without TLS"),
        ({"host": "198.51.100.1", "rest_auth": "off", **TLS}, "FEDFLEET_REST_AUTH"),
    ],
)
def test_what_is_not_may_not(settings, named):
    with pytest.raises(InsecureAddress, match=named):
        check_safety(InferenceConfig(**settings))
