"""The real command on the digits, and a real browser on the page that it writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import PATH, Page, chromium
from PIL import Image

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(PATH is None, reason="no Chromium here (Debian's package chromium)"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two settings and two seeds on the digits, three rounds each."""
    folder = tmp_path_factory.mktemp("sweep")
    recipe = folder / "digits.toml"
    text = (ROOT / "recipes" / "digits.toml").read_text()
    recipe.write_text(text.replace("rounds = 15", "rounds = 3"))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fedfleet.cli.main", "sweep", str(recipe)),
            *("--set", "training.lr=0.05,0.01", "--set", "seed=1,2"),
            *("--out", str(folder / "out"), "--jobs", "2"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def keep(page: Page, name: str, tmp_path: Path) -> None:
    """Take a screenshot; FEDFLEET_SCREENSHOTS names a folder where a person looks at it."""
    folder = Path(os.environ.get("FEDFLEET_SCREENSHOTS", tmp_path))
    page.screenshot(folder / f"{name}.png")
    with Image.open(folder / f"{name}.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 100  # not a blank page


LUMINANCE = """
[...getComputedStyle(document.querySelector(%r))[%r].matchAll(/[\\d.]+/g)]
    .slice(0, 3).reduce((sum, part) => sum + Number(part[0]), 0) / 3
"""


@pytest.mark.parametrize("dark", [False, True])
def test_page_reads_in_light_and_dark(page: Page, report: Path, tmp_path: Path, dark: bool) -> None:
    page.events.clear()
    page.look(width=1280, height=1600, dark=dark)
    page.open(report.as_uri())

    ground = page.run(LUMINANCE % ("body", "backgroundColor"))
    for text in ("figure svg text", "figcaption", "td"):
        ink = page.run(
            LUMINANCE % (text, "fill" if "svg" in text else "color"),
        )
        assert ink - ground > 80 if dark else ground - ink > 80, text
    assert page.run("document.documentElement.scrollWidth") <= 1280
    assert page.run("document.querySelectorAll('figure svg').length") == 6 + 2 * 5
    assert page.run("[...document.images].length") == 0
    assert [url for url in page.asked_urls() if not url.startswith(("data:", "file:"))] == []
    assert page.complaints() == []
    keep(page, f"report-{'dark' if dark else 'light'}", tmp_path)


def test_page_reads_on_a_phone(page: Page, report: Path, tmp_path: Path) -> None:
    page.look(width=360, height=2400)
    page.open(report.as_uri())

    assert page.run("document.documentElement.scrollWidth") <= 360
    # The sizes of letters in figures, as they are on the screen.
    sizes = page.run(
        "[...document.querySelectorAll('figure svg text')].filter((t) => t.checkVisibility())"
        ".map((t) => parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getScreenCTM().a)"
    )
    assert len(sizes) > 50
    assert min(sizes) >= 6.5
    assert sorted(sizes)[len(sizes) // 2] >= 8
    figures = page.run(
        "[...document.querySelectorAll('figure')].map((f) => f.getBoundingClientRect().right)"
    )
    assert max(figures) <= 360
    keep(page, "report-narrow", tmp_path)


def test_page_opens_the_figures_of_the_other_runs(page: Page, report: Path) -> None:
    page.look(width=1280, height=1600)
    page.open(report.as_uri())
    count = "[...document.querySelectorAll('figure')].filter((f) => f.checkVisibility()).length"

    before = page.run(count)
    page.run("document.querySelectorAll('details.run > summary')[1].click()")

    assert (before, page.run(count)) == (6 + 5, 6 + 2 * 5)
