"""Which codec chain each direction of the wire uses."""

from __future__ import annotations

from dataclasses import dataclass

CODECS = ("identity",)


@dataclass(frozen=True, kw_only=True, slots=True)
class WireConfig:
    """Codec chains, written as names joined by ``|``.

    Args:
        uplink: what an update's trainable sections go through.
        downlink: what a version goes through.
    """

    uplink: str = "identity"
    downlink: str = "identity"

    def __post_init__(self) -> None:
        for name in ("uplink", "downlink"):
            for step in getattr(self, name).split("|"):
                if step not in CODECS:
                    raise ValueError(
                        f'{name} = "{getattr(self, name)}": no codec {step!r}; '
                        f"allowed: {', '.join(CODECS)}"
                    )
