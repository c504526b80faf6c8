"""A real browser on the live page, the history page and a detector's answer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import PATH, Page, chromium
from PIL import Image
from serving import add_key, publish, serving, wait_served
from video import write_video

from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.models.config import ModelConfig, SsdTinyOptions
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet.training.state import initial_state, load_state, schema_of, state_of
from fedfleet.types import InputSpec, ModelState

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PATH is None, reason="no Chromium here (Debian's package chromium)"),
]

SHAPES = ("circle", "square", "triangle")
DETECTOR = ModelCard(
    model=ModelConfig(architecture="ssd_tiny", options=SsdTinyOptions()),
    inputs=InputSpec(channels=3, height=64, width=64, mean=(0.5,) * 3, std=(0.5,) * 3),
    classes=SHAPES,
    kind="detection",
)
TILE = "document.querySelector('.tile[data-name={}]')"
YARD, DOOR = TILE.format("yard"), TILE.format("door")
WHATS = "[...document.querySelectorAll('#events .what')].map((one) => one.textContent)"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path / 'state'}") as opened:
        yield opened


@pytest.fixture(scope="module")
def cameras(tmp_path_factory) -> Path:
    """A file with a camera that films a square crossing a yard, and one that is not there."""
    folder = tmp_path_factory.mktemp("cameras")
    ground = np.linspace(60, 130, 320).astype(np.uint8)
    frames = []
    for number in range(45):
        frame = np.repeat(np.tile(ground, (180, 1))[..., None], 3, axis=2)
        frame[60:120, 5 * number : 5 * number + 60] = (230, 120, 40)
        frames.append(frame)
    write_video(folder / "yard.mp4", frames, fps=15)
    (folder / "cameras.toml").write_text(
        '[[camera]]\nname = "yard"\nurl = "file:yard.mp4"\nfps = 15\nscore = 0\n'
        'zones = [{name = "gate", points = [[0.3, 0.1], [0.95, 0.1], [0.95, 0.9], [0.3, 0.9]]}]\n'
        '[[camera]]\nname = "door"\nurl = "rtsp://me:s3cr3t@127.0.0.1:1/door"\n'
    )
    return folder / "cameras.toml"


def text(page: Page, selector: str) -> str:
    return str(page.run(f"document.querySelector({selector!r}).innerText"))


def keep(page: Page, name: str, tmp_path: Path) -> None:
    """Take a screenshot; FEDFLEET_SCREENSHOTS names a folder where a person looks at it."""
    page.run("Promise.all(document.getAnimations().map((a) => a.finished))")
    folder = Path(os.environ.get("FEDFLEET_SCREENSHOTS", tmp_path))
    page.screenshot(folder / f"{name}.png")
    with Image.open(folder / f"{name}.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50  # not a blank page


def keep_narrow(page: Page, name: str, tmp_path: Path) -> None:
    """As a phone in the dark shows it, with nothing beyond its edges."""
    page.look(width=390, height=1400, dark=True)
    page.wait("innerWidth === 390")
    keep(page, name, tmp_path)
    assert page.run("document.documentElement.scrollWidth") <= 390
    page.look(width=1100, height=900)


def type_key(page: Page, text: str) -> None:
    page.run(f"document.querySelector('#key-text').value = {text!r}")
    page.run("document.querySelector('#key button').click()")


def evaluated(correct: int) -> dict[str, object]:
    """Metrics of a version that got so many of a thousand right."""
    counts = {"samples": 1000, "correct": correct, "loss_sum": 2000.0 - 2 * correct}
    return {"evaluation": counts, "updates": 4}


def fill(store: Store, count: int) -> None:
    for number in range(1, count + 1):
        share = 1 - 0.75 * 0.8**number - 0.02 * (number % 3 == 0)
        aliases = ("latest", "production") if number == 5 else ("latest",)
        publish(store, seed=number, metrics=evaluated(int(1000 * share)), aliases=aliases)


def sees_much() -> ModelState:
    """A detector that sees a shape nearly everywhere: its coarsest anchors always answer one."""
    module = build(DETECTOR)
    load_state(module, initial_state(DETECTOR, 1))
    columns = 4 + 1 + len(SHAPES)
    with torch.no_grad():
        for name, bias in module.named_parameters():
            if name.startswith("heads") and name.endswith("bias"):
                rows = bias.view(-1, columns)
                rows[:, 4] = 5.0  # background
                if name == "heads.3.bias":
                    rows[0, 5], rows[1, 6] = 7.0, 5.5
    return state_of(module, schema_of(module))


def test_live_page_shows_pictures_states_and_events_and_follows_the_version(
    page, store, cameras, tmp_path
):
    first = publish(store, seed=1)
    page.look(width=1100, height=900)
    page.events.clear()
    with serving(store, cameras=cameras) as (service, client):
        wait_served(service, first)
        page.open(f"{client.base_url}/live")
        page.wait(f"{YARD} && Number({YARD}.dataset.pictures) > 5")
        page.wait(f"{DOOR}.querySelector('.why').textContent.startsWith('Nothing listens')")
        page.wait(f"{YARD}.querySelector('.hint').textContent.includes('version 1')")
        assert text(page, ".tile[data-name=yard] .state") == "live"
        assert "320\u00d7180" in text(page, ".tile[data-name=yard] .hint")
        assert service.station.viewers.viewers == 1  # the other has no picture to show
        page.wait(f"{WHATS}.some((what) => what.startsWith('digit '))")
        keep(page, "live-light", tmp_path)
        keep_narrow(page, "live-narrow", tmp_path)

        second = publish(store, seed=2)
        wait_served(service, second)
        page.wait(f"{WHATS}.includes('digits answers from round 2 now')")
        page.wait("document.querySelector('#model-version').textContent === 'version 2'")
        page.run("document.querySelector('#events-of').value = 'door'")
        page.run("document.querySelector('#events-of').dispatchEvent(new Event('change'))")
        page.wait(
            f"{WHATS}.length && {WHATS}.every((what) => what.startsWith('wait') || "
            "what.startsWith('conn'))"
        )

        page.run(f"{YARD}.querySelector('.zoom').focus()")
        key_down = {"key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13}
        page.call("Input.dispatchKeyEvent", type="keyDown", **key_down)
        page.call("Input.dispatchKeyEvent", type="keyUp", **key_down)
        page.wait(f"{YARD}.classList.contains('large')")
        page.look(width=1100, height=900, dark=True)
        keep(page, "live-large-dark", tmp_path)
        page.open("about:blank#left")

    assert "s3cr3t" not in str(page.events)
    assert page.complaints() == []


def test_live_page_adds_and_removes_a_camera_or_says_why_not(page, store, tmp_path):
    with serving(store) as (_, client):
        page.open(f"{client.base_url}/live")
        page.wait("!document.querySelector('#cameras-empty').hidden")
        page.run("document.querySelector('#adding').open = true")
        page.run("document.querySelector('#add [name=name]').value = 'shed'")
        page.run("document.querySelector('#add [name=url]').value = 'rtsp://127.0.0.1:1/x'")
        page.run("document.querySelector('#add button').click()")
        page.wait("!document.querySelector('#add-error').hidden")
        assert "FEDFLEET_CAMERA_NETWORKS" in text(page, "#add-error")
        keep(page, "live-empty", tmp_path)
        page.open("about:blank#left")


def test_live_page_needs_a_key_to_read_cameras_and_keeps_it_out_of_addresses(
    page, store, cameras, tmp_path
):
    version = publish(store, seed=1)
    key, other = add_key(store, "cameras:read"), add_key(store, "predict")
    page.look(width=1100, height=900)
    page.events.clear()
    with serving(store, cameras=cameras, rest_auth="on") as (service, client):
        wait_served(service, version)
        page.open(f"{client.base_url}/live")
        page.wait("!document.querySelector('#key').hidden")
        type_key(page, other.text)
        page.wait("document.querySelector('#key-reason').textContent.includes('cameras:read')")
        type_key(page, key.text)
        page.wait(f"{YARD} && Number({YARD}.dataset.pictures) > 2")
        page.wait(f"{WHATS}.length > 0")
        page.run(f"{YARD}.querySelector('.tile .link').click()")
        page.run(f"{YARD}.querySelector('.tile .link').click()")
        page.wait("!document.querySelector('#cameras-error').hidden")
        assert "cameras:admin" in text(page, "#cameras-error")
        assert page.run("document.querySelector('#key').hidden")  # the key is good for the rest
        assert not any(key.text in url for url in page.asked_urls())
        page.run("sessionStorage.clear()")
        page.open("about:blank#left")

    refused = [line for line in page.complaints() if "401" in line or "403" in line]
    assert page.complaints() == refused


def test_history_page_draws_the_rounds_and_follows_what_is_served(page, store, tmp_path):
    fill(store, 12)
    page.look(width=1100, height=1000)
    page.events.clear()
    with serving(store) as (service, client):
        wait_served(service, store.registry.version("digits", 12))
        page.open(f"{client.base_url}/history")
        page.wait("document.querySelectorAll('#chart .dot').length === 12")
        page.wait("document.querySelector('#now .big').textContent === 'digits 12'")
        assert text(page, "#chart-title").lower() == "accuracy of digits"
        rows = page.run("[...document.querySelectorAll('#versions tr')].map((r) => r.innerText)")
        assert len(rows) == 12
        assert rows[0].split("\t")[:2] == ["12", "12"]
        assert "served" in rows[0]
        assert "latest" in rows[0]
        assert "production" in rows[7]
        keep(page, "history-light", tmp_path)
        keep_narrow(page, "history-narrow", tmp_path)

        publish(store, seed=1, metrics=evaluated(990), data=b"no weights")
        page.wait("!document.querySelector('#refused').hidden")
        assert "digits 13" in text(page, "#refused-list")
        publish(store, seed=14, metrics=evaluated(950))
        page.wait("document.querySelector('#now .big').textContent === 'digits 14'")
        page.wait("document.querySelector('#before .big').textContent === 'digits 12'")
        page.wait("document.querySelectorAll('#chart .dot').length === 14")
        page.look(width=1100, height=1000, dark=True)
        keep(page, "history-dark", tmp_path)
        page.open("about:blank#left")

    assert page.complaints() == []


def test_page_draws_what_a_detector_found_over_the_image(page, store, tmp_path):
    version = publish(store, seed=1, model="shapes", card=DETECTOR, state=sees_much())
    picture = tmp_path / "ground.png"
    noise = np.random.default_rng(1).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(picture)
    page.look(width=1100, height=760)
    page.events.clear()
    with serving(store) as (service, client):
        wait_served(service, version)
        page.open(f"{client.base_url}/")
        page.wait("document.querySelector('#model.serving')")
        page.choose("#file", picture)
        page.wait("document.querySelectorAll('#bars .found').length > 0")
        answer = client.post("/predict", content=picture.read_bytes()).json()
        shown = page.run("document.querySelectorAll('#bars .found').length")
        pixel = page.run(
            "[...document.querySelector('#preview').getContext('2d')"
            ".getImageData(0, 0, 640, 480).data]"
        )
        keep(page, "page-detector", tmp_path)

    assert shown == len(answer["detections"])
    drawn = np.array(pixel, np.uint8).reshape(480, 640, 4)[..., :3]
    assert (np.abs(drawn.astype(int) - (230, 159, 0)).max(axis=2) < 12).sum() > 500
    assert page.complaints() == []
