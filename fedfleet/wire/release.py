"""The release that each side names in its first message."""

from __future__ import annotations

from importlib.metadata import version

SOFTWARE_VERSION = version("fedfleet")
