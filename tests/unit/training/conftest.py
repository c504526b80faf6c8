"""Small data, and a real plug-in package with networks that the built-in ones are too large for."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fedfleet.data.shard import Examples
from fedfleet.models.card import ModelCard
from fedfleet.models.config import MlpOptions, ModelConfig
from fedfleet.types import InputSpec

PLUGIN = '''
import torch
from torch import nn


class Tiny(nn.Module):
    """A convolution with batch normalisation, dropout, and a buffer that no state carries."""

    def __init__(self, inputs, num_classes, dropout=0.0, extra_outputs=0):
        super().__init__()
        self.conv = nn.Conv2d(inputs.channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4, num_classes + extra_outputs)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, images):
        if self.training:
            self.calls += 1
        maps = torch.relu(self.norm(self.conv(images))) + 0.01 * self.calls
        return self.head(self.dropout(maps.mean((2, 3))))
'''


@pytest.fixture(scope="session")
def _plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder: Path = tmp_path_factory.mktemp("plugin")
    (folder / "fedfleet_tiny_plugin.py").write_text(PLUGIN)
    info = folder / "fedfleet_tiny_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fedfleet-tiny-plugin\nVersion: 1.0\n"
    )
    (info / "entry_points.txt").write_text("[fedfleet.models]\ntiny = fedfleet_tiny_plugin:Tiny\n")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("fedfleet_tiny_plugin", None)


@pytest.fixture
def inputs() -> InputSpec:
    return InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.25,))


@pytest.fixture
def examples() -> Examples:
    return clouds(40)


@pytest.fixture
def mlp_card(inputs: InputSpec) -> ModelCard:
    return ModelCard(
        model=ModelConfig(architecture="mlp", options=MlpOptions(hidden=(8,))),
        inputs=inputs,
        classes=("a", "b", "c"),
    )


@pytest.fixture
def tiny_card(_plugin: None, inputs: InputSpec) -> Callable[..., ModelCard]:
    def make(**options: float) -> ModelCard:
        return ModelCard(
            model=ModelConfig(architecture="tiny", options=options),
            inputs=inputs,
            classes=("a", "b", "c"),
        )

    return make


def clouds(count: int, seed: int = 0) -> Examples:
    """Three classes of 8x8 images, each with a bright band of its own under noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    images = rng.integers(0, 120, (count, 1, 8, 8), dtype=np.uint8)
    for place, label in enumerate(labels):
        images[place, :, 2 * label : 2 * label + 3] += 100
    return Examples(images, labels)
