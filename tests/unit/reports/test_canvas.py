from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from records import HOSTILE

from fedfleet.reports.canvas import (
    FAINT,
    INK,
    house_style,
    in_percent,
    new_figure,
    save_png,
    svg_of,
)


def svg(label: str = "x", *, ticks: tuple[float, ...] = (0.0, 0.5, 1.0)) -> str:
    with house_style():
        figure = new_figure(2.0)
        axes = figure.subplots()
        axes.plot([0, 1], ticks[:2], label=label, marker="o")
        axes.set_yticks(ticks)
        in_percent(axes, "y")
        axes.legend()
        return svg_of(figure)


def test_svg_takes_the_colours_of_the_page() -> None:
    text = svg()

    assert "var(--ink)" in text
    assert "var(--faint)" in text
    assert INK not in text
    assert FAINT not in text


def test_svg_has_a_view_and_no_size() -> None:
    head = svg().split(">", 1)[0]

    assert re.fullmatch(r'<svg viewBox="0 0 [\d.]+ [\d.]+"', head)


def test_svg_refers_to_its_own_parts_only() -> None:
    first, second = svg(), svg()

    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (first, second)]
    used = set(re.findall(r'href="#([^"]+)"', first)) | set(re.findall(r"url\(#([^)]+)\)", first))
    assert ids[0] & ids[1] == set()
    assert used
    assert used <= ids[0]
    assert not re.search(r'(?:href|src)="(?!#|data:)', first)
    assert "<style" not in first
    assert "<metadata" not in first


@pytest.mark.parametrize("name", HOSTILE)
def test_svg_holds_names_as_text(name: str) -> None:
    text = svg(name)

    assert "<script" not in text
    assert "mathdefault" not in text
    if name.startswith("$"):
        assert "$a_1^{x}$ &amp; " in text


def test_shares_are_in_percent_without_needless_digits() -> None:
    text = svg(ticks=(0.07, 0.125, 1.0))

    assert re.findall(r">([\d.]+ %)<", text) == ["7 %", "12.5 %", "100 %"]


def test_png_is_on_white(tmp_path: Path) -> None:
    with house_style():
        figure = new_figure(2.0, 3.0)
        figure.subplots().plot([0, 1], [0, 1])
        save_png(figure, tmp_path / "a.png")

    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert pixels.shape == (300, 450, 3)
    assert (pixels[0, 0] == 255).all()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
