"""How fast the link to the coordinator is, by the transfers that there are anyway."""

from __future__ import annotations

# Smaller ones measure the round trip, not the link.
LEAST_BYTES = 64 << 10
# Weight of the newest transfer.
NEWEST = 0.3


class Link:
    """One direction. ``bytes_per_s`` is 0 before the first transfer that says something."""

    def __init__(self) -> None:
        self.bytes_per_s = 0.0

    def note(self, moved_bytes: int, took_s: float) -> None:
        """Take a transfer into the mean, if it was large enough."""
        if moved_bytes <= LEAST_BYTES or took_s <= 0:
            return
        rate = moved_bytes / took_s
        known = self.bytes_per_s
        self.bytes_per_s = rate if known == 0 else known + NEWEST * (rate - known)

    def takes_s(self, size_bytes: int) -> float:
        """Seconds that so many bytes will take; 0 when nothing is known."""
        return size_bytes / self.bytes_per_s if self.bytes_per_s else 0.0


class Links:
    """Both directions, as seen from the worker."""

    def __init__(self) -> None:
        self.up, self.down = Link(), Link()
