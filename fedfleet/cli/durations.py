"""How long something is valid, as people write it: ``90s``, ``30m``, ``2h``, ``7d``."""

from __future__ import annotations

import re

from fedfleet.errors import SettingInvalid

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FORM = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])")


def parse_duration(option: str, text: str) -> float:
    """Seconds of a number with its unit.

    Args:
        option: names the option in the error.

    Raises:
        SettingInvalid: no such form, or no time at all.
    """
    match = _FORM.fullmatch(text.strip())
    seconds = float(match[1]) * _UNITS_S[match[2]] if match else 0.0
    if not seconds:
        raise SettingInvalid(
            f"{option} {text!r}: must be a number above 0 with its unit s, m, h or d, as in 2h"
        )
    return seconds
