"""What a worker measured of itself, bounded to what can be before anybody computes with it."""

from __future__ import annotations

import math

from google.protobuf.message import Message

# More than any figure of a device is.
_MOST = 1e12
# Of figures that are not just zero or above.
_BOUNDS = {"temperature_celsius": (-273.15, 1e4), "battery_ratio": (0.0, 1.0)}


def clean(told: Message) -> None:
    """Bound the floats of a message and of those in it, in place; what is no number is left out."""
    for field, value in told.ListFields():
        if field.type == field.TYPE_DOUBLE:
            least, most = _BOUNDS.get(field.name, (0.0, _MOST))
            if math.isfinite(value):
                setattr(told, field.name, min(max(value, least), most))
            else:
                told.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:  # a list, as the speeds of levels are
            for one in value:
                clean(one)
