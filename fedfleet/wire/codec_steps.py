"""A codec chain's steps as messages."""

from __future__ import annotations

from collections.abc import Iterable

from fedfleet.codecs.encoded import Step
from fedfleet.v1 import types_pb2 as pb

_PREFIX = "CODEC_KIND_"


def steps_to_messages(steps: Iterable[Step]) -> list[pb.CodecStep]:
    """Return one message per step; equal chains give equal messages."""
    return [
        pb.CodecStep(
            kind=pb.CodecKind.Value(_PREFIX + step.name.upper()), parameters=step.parameters
        )
        for step in steps
    ]
