"""A small vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929).

Differs from the paper: no class token, the answer is read off the mean over the patches (as in
Zhai et al. 2022, arXiv:2106.04560), and no dropout. Layer normalisation only, so there are no
running statistics. Attention is written out: torch's fused kernels do not promise the same bits
twice on a GPU.

Legend: B = batch, C = input channels, H, W = input size, T = patches, D = numbers per patch,
A = attention heads, K = classes.
"""

from __future__ import annotations

from torch import Tensor, empty, nn
from torch.nn import functional

from fedfleet.errors import RecipeInvalid
from fedfleet.models.config import VitOptions
from fedfleet.models.layers import scaled
from fedfleet.types import InputSpec

_HIDDEN = 4  # units of a block's dense layer per number of a patch, as in the paper
_POSITION_STD = 0.02


class Attention(nn.Module):
    """Every patch takes from every other what its queries ask for (equations 5 to 8)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        # Heads lie one after the other; a narrower model has as many (fedfleet.training.submodels).
        self.width_axes = {
            "qkv.weight": {0: (3 * heads, 1)},
            "qkv.bias": {0: (3 * heads, 1)},
            "output.weight": {1: (heads, 1)},
        }

    def forward(self, patches_BTD: Tensor) -> Tensor:
        batch, patches, dim = patches_BTD.shape
        split = self.qkv(patches_BTD).reshape(batch, patches, 3, self._heads, dim // self._heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, A, T, D / A)
        scores_BATT = query @ key.transpose(2, 3) * (dim // self._heads) ** -0.5
        mixed = functional.softmax(scores_BATT, dim=3) @ value
        mixed_BTD: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, patches, dim))
        return mixed_BTD


class Block(nn.Module):
    """Attention, then a dense layer for each patch, both added to what came in (eq. 2 and 3)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.dense = nn.Sequential(
            nn.Linear(dim, _HIDDEN * dim), nn.GELU(), nn.Linear(_HIDDEN * dim, dim)
        )

    def forward(self, patches_BTD: Tensor) -> Tensor:
        patches_BTD = patches_BTD + self.attention(self.norm1(patches_BTD))
        summed_BTD: Tensor = patches_BTD + self.dense(self.norm2(patches_BTD))
        return summed_BTD


class Vit(nn.Module):
    """Patches with learned positions, blocks, the mean over the patches, one dense layer."""

    def __init__(self, inputs: InputSpec, num_classes: int, options: VitOptions) -> None:
        super().__init__()
        patch = options.patch
        dim = options.heads * scaled(options.dim // options.heads, options.width)
        patches = (inputs.height // patch) * (inputs.width // patch)
        self.patches = nn.Conv2d(inputs.channels, dim, kernel_size=patch, stride=patch)
        self.positions = nn.Parameter(empty(patches, dim))
        nn.init.trunc_normal_(self.positions, std=_POSITION_STD)
        self.blocks = nn.Sequential(*(Block(dim, options.heads) for _ in range(options.depth)))
        self.norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return the logits, shape (B, K)."""
        patches_BTD = self.patches(images_BCHW).flatten(2).transpose(1, 2) + self.positions
        patches_BTD = self.norm(self.blocks(patches_BTD))
        logits_BK: Tensor = self.output(patches_BTD.mean(dim=1))
        return logits_BK


def build(inputs: InputSpec, num_classes: int, options: VitOptions) -> nn.Module:
    """Build ``vit``.

    Raises:
        RecipeInvalid: the patches do not cover the image exactly.
    """
    patch = options.patch
    if inputs.height % patch or inputs.width % patch:
        raise RecipeInvalid(
            f"model.patch = {patch}: must divide the images' sides, the data set has "
            f"{inputs.height}x{inputs.width}"
        )
    return Vit(inputs, num_classes, options)
