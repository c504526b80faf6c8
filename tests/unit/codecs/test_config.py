from __future__ import annotations

import pytest

from fedfleet.codecs.config import CODECS, WireConfig


def test_wire_config_takes_every_codec_and_chains_of_them() -> None:
    for codec in CODECS:
        assert WireConfig(uplink=codec, downlink=f"{codec}|{codec}").uplink == codec


@pytest.mark.parametrize("text", ["", "gzip", "identity|", "identity,identity", " identity"])
def test_wire_config_names_field_value_and_choices(text: str) -> None:
    with pytest.raises(ValueError, match=r"downlink = .*allowed: identity"):
        WireConfig(downlink=text)
