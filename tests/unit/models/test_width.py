from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.models import width as width_module
from fedfleet.models.config import (
    BUILT_IN,
    MAX_WIDTH,
    MIN_WIDTH,
    MlpOptions,
    MobileNetOptions,
    ModelConfig,
)
from fedfleet.models.width import narrowed

ROOT = Path(width_module.__file__).parents[2]


WITHOUT = "ssdlite320_mobilenet_v3_large"  # torchvision's network has one width


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != WITHOUT])
def test_narrowed_multiplies_the_width_of_every_architecture(name):
    config = ModelConfig(architecture=name, options=BUILT_IN[name](width=0.5))

    half = narrowed(config, 0.25)

    assert half == ModelConfig(architecture=name, options=BUILT_IN[name](width=0.125))
    assert narrowed(config, 1.0) == config


def test_narrowed_refuses_an_architecture_without_a_width():
    config = ModelConfig(architecture=WITHOUT, options=BUILT_IN[WITHOUT]())

    with pytest.raises(ValueError, match=f"{WITHOUT}.* has no option width"):
        narrowed(config, 0.5)


def test_narrowed_keeps_the_other_options():
    config = ModelConfig(architecture="mlp", options=MlpOptions(hidden=(7, 5)))

    assert narrowed(config, 0.5).options == MlpOptions(hidden=(7, 5), width=0.5)


def test_narrowed_model_fetches_no_pretrained_weights():
    options = MobileNetOptions(stem="imagenet", pretrained=True)
    config = ModelConfig(architecture="mobilenet_v3_small", options=options)

    assert narrowed(config, 0.5).options == MobileNetOptions(stem="imagenet", width=0.5)
    assert narrowed(config, 1.0).options == options


def test_narrowed_gives_a_plug_in_a_width():
    config = ModelConfig(architecture="theirs", options={"depth": 3})

    half = narrowed(config, 0.5)

    assert half.options == {"depth": 3, "width": 0.5}
    assert narrowed(half, 0.5).options == {"depth": 3, "width": 0.25}
    assert config.options == {"depth": 3}


@given(st.floats(MIN_WIDTH, MAX_WIDTH), st.floats(0.01, 1.0))
def test_narrowed_and_widened_again_is_what_it_was(width, rate):
    if width * rate < MIN_WIDTH:
        return
    config = ModelConfig(architecture="mlp", options=MlpOptions(width=width))

    again = narrowed(narrowed(config, rate), 1 / rate)

    assert again.options.width == pytest.approx(width, rel=1e-12)


def test_narrowed_refuses_what_no_architecture_takes():
    config = ModelConfig(architecture="mlp", options=MlpOptions())

    with pytest.raises(ValueError, match=r"width = 0.001: must be from 0.01"):
        narrowed(config, 0.001)
    with pytest.raises(ValueError, match=r"width = 9.0"):
        narrowed(config, 9.0)
    with pytest.raises(ValueError, match="width = 'half': must be a number"):
        narrowed(ModelConfig(architecture="theirs", options={"width": "half"}), 0.5)


def test_pretrained_weights_are_of_full_width_alone():
    with pytest.raises(ValueError, match=r"the weights are for width = 1, not 0\.5"):
        MobileNetOptions(stem="imagenet", pretrained=True, width=0.5)


def test_width_imports_no_torch():
    code = "import sys, fedfleet.models.width; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
