"""How every figure looks, and how it becomes an SVG for the page or a PNG file.

In an SVG, text, axes and grid take the page's colours, so that it reads in light and dark; what is
drawn in colours of its own is legible on both. Legend: W = workers, C = classes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

INK = "#24292f"
FAINT = "#d0d7de"
ACCENT = "#2f81c7"
COLOURS = (
    *("#2f81c7", "#d9622b", "#2a9d6f", "#b25fb8", "#c9930a", "#3aa8c1", "#9c6644", "#868e96"),
)
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2))
# From nothing to the accent: the page's own ground shows where there is nothing.
HEAT = LinearSegmentedColormap.from_list("heat", ["#2f81c700", "#2f81c7"])
WIDTH_INCHES = 4.2  # small, so that text is legible where the page is as narrow as a phone
DOTS_PER_INCH = 150
NAMED_CLASSES = 40  # more names than these would lie over each other

# Any: the names are texts, which some releases of matplotlib list one by one.
_RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    # A name is a name, also where it holds what matplotlib takes for a formula.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "fedfleet",
    "figure.constrained_layout.use": True,
}
_INKS = {INK: "var(--ink)", FAINT: "var(--faint)"}
_numbers = count(1)
_LONGEST_NAME = 16


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and save figures as they look here."""
    with rc_context(_RC), warnings.catch_warnings():
        # A name in a script that the font does not have shows boxes in a PNG; a page has it right.
        warnings.filterwarnings("ignore", message=r"Glyph \d+")
        yield


def new_figure(height_inches: float, width_inches: float = WIDTH_INCHES) -> Figure:
    """An empty figure."""
    return Figure(figsize=(width_inches, height_inches))


def in_percent(axes: Axes, axis: str) -> None:
    """Label an axis of shares, ``x`` or ``y``, in percent."""
    chosen = axes.xaxis if axis == "x" else axes.yaxis
    chosen.set_major_formatter(FuncFormatter(lambda share, _: f"{round(100 * share, 6):g} %"))


def short_name(name: str) -> str:
    """A name that leaves room for the figure beside it."""
    plain = "".join(char if char.isprintable() else " " for char in name)
    return plain if len(plain) <= _LONGEST_NAME else plain[: _LONGEST_NAME - 1] + "..."


def svg_of(figure: Figure) -> str:
    """The figure as an ``svg`` element without a size of its own; its ids are its own."""
    file = StringIO()
    figure.savefig(
        file,
        format="svg",
        transparent=True,
        dpi=DOTS_PER_INCH,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    text = file.getvalue()
    text = text[text.index("<svg") :]
    head, body = text.split(">", 1)
    head = re.sub(r' (?:width|height|xmlns\S*|version)="[^"]*"', "", head)
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL)
    body = re.sub(
        r"\b(fill|stroke): (#\w{6})\b",
        lambda match: f"{match[1]}: {_INKS.get(match[2], match[2])}",
        body,
    )
    prefix = f"f{next(_numbers)}-"
    body = re.sub(r'\bid="', f'id="{prefix}', body)
    body = re.sub(r'href="#', f'href="#{prefix}', body)
    body = body.replace("url(#", f"url(#{prefix}")
    return f"{head}>{body.strip()}"


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure on white; raises OSError."""
    figure.savefig(path, format="png", dpi=DOTS_PER_INCH, facecolor="white")
