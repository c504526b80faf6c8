"""The measured model in eager PyTorch, and what its servers do to a request: the plain way.

The weights are read by FedFleet, so that every server has the same; nothing else of it is used.
"""

import base64
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.training.state import load_state, schema_of
from fedfleet.wire.weights import decode_state

TOP = 5


def read_model(folder: Path) -> tuple[ModelCard, torch.nn.Module]:
    card = ModelCard.from_json(json.loads((folder / "card.json").read_text()))
    module = build(card)
    load_state(
        module, decode_state(schema_of(module), (folder / "weights.safetensors").read_bytes())
    )
    return card, module.eval()


class Eager:
    """Decodes, computes and names the classes."""

    def __init__(self, folder: Path) -> None:
        self.card, self.module = read_model(folder)
        inputs = self.card.inputs
        self.size = (inputs.width, inputs.height)
        self.mean = torch.tensor(inputs.mean).view(-1, 1, 1)
        self.std = torch.tensor(inputs.std).view(-1, 1, 1)

    def pixels(self, request: dict) -> np.ndarray:
        """Shape (C, H, W), uint8."""
        image = Image.open(BytesIO(base64.b64decode(request["image"]))).convert("RGB")
        image = ImageOps.fit(image, self.size, method=Image.Resampling.BILINEAR)
        return np.asarray(image).transpose(2, 0, 1)

    def decode(self, request: dict) -> torch.Tensor:
        return (torch.from_numpy(self.pixels(request).copy()).float() / 255 - self.mean) / self.std

    def answer(self, batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return torch.softmax(self.module(batch), dim=1)

    def encode(self, probabilities: torch.Tensor) -> dict:
        top = torch.topk(probabilities, TOP)
        pairs = zip(top.values.tolist(), top.indices.tolist(), strict=True)
        return {
            "predictions": [
                {"label": self.card.classes[index], "index": index, "probability": probability}
                for probability, index in pairs
            ]
        }
