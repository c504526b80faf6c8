"""Which codec chain each direction of the wire uses."""

from __future__ import annotations

from dataclasses import dataclass

from fedfleet.codecs.chain import CODECS, Chain, parse_chain

__all__ = ["CODECS", "WireConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WireConfig:
    """Codec chains, written as names joined by ``|``.

    Args:
        uplink: what an update's trainable sections go through.
        downlink: what a version goes through; this release serves ``identity`` only.
    """

    uplink: str = "identity"
    downlink: str = "identity"

    def __post_init__(self) -> None:
        for name in ("uplink", "downlink"):
            text = getattr(self, name)
            try:
                parse_chain(text)
            except ValueError as error:
                raise ValueError(f'{name} = "{text}": {error}') from error

    @property
    def uplink_chain(self) -> Chain:
        return parse_chain(self.uplink)

    @property
    def downlink_chain(self) -> Chain:
        return parse_chain(self.downlink)
