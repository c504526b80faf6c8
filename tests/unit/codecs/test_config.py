from __future__ import annotations

import pytest
from codec_vectors import CHAINS

from fedfleet.codecs.config import CODECS, WireConfig
from fedfleet.errors import RecipeInvalid
from fedfleet.tables import parse_table


@pytest.mark.parametrize("chain", CHAINS)
def test_wire_config_takes_every_chain_in_each_direction(chain: str) -> None:
    config = WireConfig(uplink=chain, downlink="int8")

    assert str(config.uplink_chain) == chain
    assert str(config.downlink_chain) == "int8"


@pytest.mark.parametrize("text", ["", "gzip", "identity|", "identity,identity", " identity"])
def test_wire_config_names_field_value_and_choices(text: str) -> None:
    with pytest.raises(ValueError, match=r"downlink = .*allowed: identity, .*topk") as caught:
        WireConfig(downlink=text)
    assert f'downlink = "{text}"' in str(caught.value)
    assert all(codec in str(caught.value) for codec in CODECS)


@pytest.mark.parametrize("text", ["int8|topk:0.1", "topk:2", "eden:9", "sign:3"])
def test_recipe_with_a_bad_chain_is_refused_with_a_stable_code(text: str) -> None:
    with pytest.raises(RecipeInvalid, match="uplink") as caught:
        parse_table(WireConfig, {"uplink": text}, "wire")
    assert caught.value.code == "RECIPE_INVALID"
