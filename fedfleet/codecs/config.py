"""Which codec chain each direction of the wire uses, and what a worker keeps for it."""

from __future__ import annotations

from dataclasses import dataclass

from fedfleet.codecs.chain import CODECS, Chain, parse_chain
from fedfleet.codecs.feedback import ErrorFeedback

__all__ = ["CODECS", "WireConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WireConfig:
    """Codec chains, written as names joined by ``|``.

    Args:
        uplink: what an update's trainable sections go through.
        downlink: what a version goes through.
        error_feedback: whether a worker adds what a biased uplink left out to its next update; off
            is for experiments that show the loss.
        feedback_decay: what is left of that after a round, in (0, 1].
        momentum: of DGC's momentum correction, in [0, 1); 0 for none. For a sparse uplink.
    """

    uplink: str = "identity"
    downlink: str = "identity"
    error_feedback: bool = True
    feedback_decay: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        for name in ("uplink", "downlink"):
            text = getattr(self, name)
            try:
                parse_chain(text)
            except ValueError as error:
                raise ValueError(f'{name} = "{text}": {error}') from error
        if not 0 < self.feedback_decay <= 1:
            raise ValueError(
                f"feedback_decay = {self.feedback_decay}: must be above 0 and at most 1"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum = {self.momentum}: must be at least 0 and below 1")
        self._check_used()

    def _check_used(self) -> None:
        """A setting that would be ignored is an error."""
        chain = self.uplink_chain
        if self.momentum and not chain.is_sparse:
            raise ValueError(
                f'momentum = {self.momentum}: needs a sparse uplink, not uplink = "{chain}"; '
                'write uplink = "topk:0.01|int8", or leave momentum out'
            )
        if self.feedback_decay < 1 and chain.is_unbiased:
            raise ValueError(
                f'feedback_decay = {self.feedback_decay}: uplink = "{chain}" is unbiased and keeps '
                "nothing; leave feedback_decay out"
            )
        for name, given in (
            ("feedback_decay", self.feedback_decay < 1),
            ("momentum", self.momentum),
        ):
            if given and not self.error_feedback:
                raise ValueError(
                    f"{name} = {getattr(self, name)}: is a part of error feedback, which "
                    f"error_feedback = false turns off; leave one of the two out"
                )

    @property
    def uplink_chain(self) -> Chain:
        return parse_chain(self.uplink)

    @property
    def downlink_chain(self) -> Chain:
        return parse_chain(self.downlink)

    @property
    def feedback(self) -> ErrorFeedback:
        return ErrorFeedback(decay=self.feedback_decay, momentum=self.momentum)
