from __future__ import annotations

import pytest

from fedfleet.cli.inference import InferenceClient
from fedfleet.errors import InsecureAddress, SettingInvalid


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8080", "file:///etc/passwd", "http://", "http://[::1", "http://host:99999"],
)
def test_client_refuses_what_is_no_address(url: str) -> None:
    with pytest.raises(SettingInvalid, match="inference"):
        InferenceClient(url)


def test_client_refuses_plain_http_beyond_loopback() -> None:
    with pytest.raises(InsecureAddress):
        InferenceClient("http://192.0.2.1:8080")

    assert InferenceClient("http://192.0.2.1:8080", insecure=True).is_plain
    assert not InferenceClient("https://192.0.2.1").is_plain
