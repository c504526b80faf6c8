from __future__ import annotations

import pytest

from fedfleet.env import read
from fedfleet.errors import SettingInvalid
from fedfleet_inference_api.config import InferenceConfig


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
    ],
)
def test_config_names_the_variable_that_cannot_be_used(name, value):
    with pytest.raises(SettingInvalid, match=f"FEDFLEET_{name}="):
        read(InferenceConfig, {f"FEDFLEET_{name}": value})
