"""The same architecture at another width; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fedfleet.models.config import MAX_WIDTH, ModelConfig


def narrowed(config: ModelConfig, rate: float) -> ModelConfig:
    """The architecture with its option ``width`` multiplied by a rate.

    A plug-in's ``width`` counts as 1 where the recipe does not give it. Pretrained weights are the
    wide model's; a narrower one is given its part of them, and fetches none.

    Args:
        rate: above 0; above 1 leads from a narrow model back to the wide one.

    Raises:
        ValueError: the width is out of the range that the architecture takes, or it takes none.
    """
    options = config.options
    if rate == 1.0:
        return config
    if isinstance(options, Mapping):
        width = options.get("width", 1.0)
        if type(width) not in (int, float):
            raise ValueError(f"width = {width!r}: must be a number")
        return replace(config, options={**options, "width": width * rate})
    if not hasattr(options, "width"):
        raise ValueError(f'architecture = "{config.architecture}" has no option width')
    # Multiplied and divided again, the largest width may come out a last digit too large.
    width = options.width * rate
    width = MAX_WIDTH if MAX_WIDTH < width < MAX_WIDTH * (1 + 1e-9) else width
    changes: dict[str, float | bool] = {"width": width}
    if getattr(options, "pretrained", False):
        changes["pretrained"] = False
    return replace(config, options=replace(options, **changes))
