from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from records import HOSTILE, record

from fedfleet.reports.groups import group_records
from fedfleet.reports.page import write_report
from fedfleet.reports.record import Record


class Reader(HTMLParser):
    """Collects a page's elements and texts; fails where an element is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def close(self) -> None:
        super().close()
        assert self._open == []


def report(tmp_path: Path, records: list[Record], target: float = 0.6) -> tuple[str, Reader]:
    seen: list[tuple[int, int]] = []
    write_report(
        group_records(records),
        target,
        tmp_path / "report.html",
        None,
        lambda done, total: seen.append((done, total)),
    )
    assert [done for done, _ in seen] == list(range(seen[-1][1] + 1))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    reader.close()
    return text, reader


def test_page_needs_nothing_beside_itself(tmp_path: Path) -> None:
    text, reader = report(tmp_path, [record(virtual=True)])

    for _, attributes in reader.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert (value or "").startswith(("#", "data:image/png;base64,")), value
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert {tag for tag, _ in reader.tags}.isdisjoint({"script", "link", "iframe", "object"})
    [policy] = [a["content"] for tag, a in reader.tags if a.get("http-equiv")]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_page_has_each_figure_with_a_caption_that_a_screen_reader_reads(tmp_path: Path) -> None:
    _, reader = report(tmp_path, [record(virtual=True)])

    labels = [a["aria-label"] for tag, a in reader.tags if tag == "svg" and "aria-label" in a]
    assert len(labels) == 8 + 5
    assert all(a.get("role") == "img" for tag, a in reader.tags if "aria-label" in a)
    assert set(labels) <= set(reader.texts)


def test_page_shows_what_a_record_says_as_text(tmp_path: Path) -> None:
    runs = [
        record((40,), name=name, classes=HOSTILE, run_id=name, lr=number)
        for number, name in enumerate(["<script>alert(2)</script>", '"><img src=x onerror=y>'])
    ]
    runs = [
        Record(
            facts=run.facts,
            recipe='name = "x"\n# </pre><script>alert(3)</script>\n' + f"[a]\nlr = {number}\n",
            rounds=run.rounds,
            data=run.data,
        )
        for number, run in enumerate(runs)
    ]

    text, reader = report(tmp_path, runs)

    assert "<script" not in text
    assert {tag for tag, _ in reader.tags}.isdisjoint({"script", "img", "b"})
    assert "<script>alert(2)</script>" in " ".join(reader.texts)
    assert any("</pre><script>alert(3)" in text for text in reader.texts)


def test_page_compares_runs_and_shows_the_first_seed_of_each(tmp_path: Path) -> None:
    runs = [record(lr=lr, seed=seed, run_id=f"{lr}-{seed}") for lr in (0.1, 0.2) for seed in (1, 2)]

    _, reader = report(tmp_path, runs)

    texts = [text.strip() for text in reader.texts]
    assert texts.count("lr = 0.1") == 2  # in the table and above its figures
    assert "lr = 0.1 (2 seeds)" in texts
    assert texts.count("Figures of seed 1.") == 2
    assert {"0.1-1", "0.1-2", "0.2-1", "0.2-2"} <= set(texts)
    assert sum(tag == "details" for tag, _ in reader.tags) == 4
    assert sum(tag == "figure" for tag, _ in reader.tags) == 6 + 2 * 5


def test_page_of_an_interrupted_run_without_rounds_says_so(tmp_path: Path) -> None:
    _, reader = report(tmp_path, [record((), outcome="running", with_data=False)], 0.0)

    text = " ".join(reader.texts)
    assert "No round was evaluated" in text
    assert "running, or killed: it has not said how it ended, 0 of 0 rounds" in text
    assert not any(tag == "figure" for tag, _ in reader.tags)


@pytest.mark.parametrize("page", [True, False])
def test_pictures_are_written_with_or_without_a_page(tmp_path: Path, page: bool) -> None:
    write_report(
        group_records([record()]),
        0.6,
        tmp_path / "report.html" if page else None,
        tmp_path,
        lambda done, total: None,
    )

    pictures = sorted(tmp_path.glob("*.png"))
    assert len(pictures) == 6 + 5
    assert (tmp_path / "report.html").exists() == page
    for picture in pictures:
        with Image.open(picture) as image:
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(1 << 20) or []) > 50
