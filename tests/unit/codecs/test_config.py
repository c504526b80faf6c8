from __future__ import annotations

from typing import Any

import pytest
from codec_vectors import CHAINS

from fedfleet.codecs.config import CODECS, WireConfig
from fedfleet.codecs.feedback import ErrorFeedback
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 0.9}, 'momentum = 0.9: needs a sparse uplink, not uplink = "identity"'),
        ({"momentum": 0.9, "uplink": "sign"}, 'needs a sparse uplink, not uplink = "sign"'),
        ({"momentum": 1.0, "uplink": "topk:0.1"}, "momentum = 1.0: must be at least 0"),
        ({"momentum": -0.1, "uplink": "topk:0.1"}, "momentum = -0.1"),
        ({"feedback_decay": 0.0, "uplink": "sign"}, "feedback_decay = 0.0: must be above 0"),
        ({"feedback_decay": 1.5, "uplink": "sign"}, "feedback_decay = 1.5"),
        ({"feedback_decay": 0.5, "uplink": "int8"}, 'uplink = "int8" is unbiased'),
        (
            {"feedback_decay": 0.5, "uplink": "sign", "error_feedback": False},
            "error_feedback = false turns off",
        ),
        (
            {"momentum": 0.5, "uplink": "stc:0.1", "error_feedback": False},
            "error_feedback = false turns off",
        ),
    ],
)
def test_wire_config_refuses_what_would_be_ignored(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeInvalid) as caught:
        parse_table(WireConfig, settings, "wire")
    assert message in caught.value.message


def test_wire_config_gives_its_feedback() -> None:
    config = WireConfig(uplink="topk:0.01|int8", feedback_decay=0.9, momentum=0.5)

    assert config.feedback == ErrorFeedback(decay=0.9, momentum=0.5)
    assert config.error_feedback
