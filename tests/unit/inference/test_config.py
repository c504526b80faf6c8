from __future__ import annotations

import pytest

from fedfleet.env import read
from fedfleet.errors import SettingInvalid
from fedfleet_inference_api.backends.choice import AUTO, NAMES
from fedfleet_inference_api.config import BACKENDS, InferenceConfig


def test_config_defaults_to_loopback_and_the_newest_model():
    config = read(InferenceConfig, {})

    assert (config.host, config.inference_port, config.insecure) == ("127.0.0.1", 8080, False)
    assert (config.serve_model, config.serve_alias) == ("", "latest")
    assert config.max_body_bytes == 16 * 1024 * 1024


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INFERENCE_PORT", "http"),
        ("INFERENCE_PORT", "-1"),
        ("MAX_BODY_BYTES", "0"),
        ("MAX_PENDING", "0"),
        ("REGISTRY_POLL_S", "nan"),
        ("REQUEST_TIMEOUT_S", "0"),
        ("THREADS", "-2"),
        ("INSECURE", "maybe"),
        ("REST_AUTH", "maybe"),
        ("TRUSTED_PROXIES", "the.proxy"),
        ("RATE_PER_S", "-1"),
        ("BURST", "0"),
        ("DRAIN_S", "soon"),
        ("MAX_CONNECTIONS", "0"),
        ("CANARY_SHARE", "1.5"),
        ("SHADOW_SHARE", "-0.1"),
        ("ROLLBACK_FAILURES", "0"),
        ("PINNED_VERSIONS", "-1"),
        ("BATCH_IMAGES", "0"),
        ("IMAGE_URLS", "https://images.example"),
        ("HOSTNAMES", "fleet.lan:8080"),
        ("CAMERA_NETWORKS", "10.0.0.1/8"),
        ("CAMERA_PORTS", "rtsp"),
        ("CAMERA_SLOW_RETRY_S", "0"),
        ("CAMERA_MEMORY_MB", "0"),
        ("MAX_BATCH", "0"),
        ("BACKEND", "cuda"),
        ("SERVE_LEVEL", "0.25"),
        ("SERVE_LEVEL", "q"),
    ],
)
def test_config_names_the_variable_that_cannot_be_used(name, value):
    with pytest.raises(SettingInvalid, match=f"FEDFLEET_{name}="):
        read(InferenceConfig, {f"FEDFLEET_{name}": value})


@pytest.mark.parametrize(
    ("values", "asks", "limit_per_s"),
    [
        ({}, False, 0.0),
        ({"HOST": "localhost"}, False, 0.0),
        ({"HOST": "0.0.0.0"}, True, 100.0),
        ({"HOST": "0.0.0.0", "REST_AUTH": "off"}, False, 0.0),
        ({"REST_AUTH": "ON"}, True, 100.0),
        ({"REST_AUTH": "on", "RATE_PER_S": "0"}, True, 0.0),
        ({"RATE_PER_S": "0.5"}, False, 0.5),
    ],
)
def test_keys_and_limits_are_for_callers_from_beyond_this_machine(values, asks, limit_per_s):
    config = read(InferenceConfig, {f"FEDFLEET_{name}": text for name, text in values.items()})

    assert (config.asks_for_keys, config.limit_per_s) == (asks, limit_per_s)


def test_config_refuses_bodies_that_are_larger_than_all_together():
    with pytest.raises(SettingInvalid, match="FEDFLEET_BODIES_MB=8"):
        read(InferenceConfig, {"FEDFLEET_BODIES_MB": "8"})


def test_config_refuses_batches_that_can_never_be_let_in():
    read(InferenceConfig, {"FEDFLEET_MAX_PENDING": "32"})
    with pytest.raises(SettingInvalid, match=r"BATCH_IMAGES=32: .*_PENDING=31"):
        read(InferenceConfig, {"FEDFLEET_MAX_PENDING": "31"})


def test_config_takes_backends_and_levels_by_name():
    config = read(InferenceConfig, {"FEDFLEET_BACKEND": "ONNX", "FEDFLEET_SERVE_LEVEL": " C "})

    assert (config.backend, config.serve_level) == ("onnx", "c")
    assert {*BACKENDS} == {AUTO, *NAMES}
