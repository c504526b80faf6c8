"""A real browser on the live page, the history page and a detector's answer."""

from __future__ import annotations

import json
import os
import re
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
from fedfleet_inference_api.cameras.annotate import _Pen
from fedfleet_inference_api.cameras.networks import parse_camera_networks

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
YARD, DOOR, STREET = (TILE.format(name) for name in ("yard", "door", "street"))
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
                    rows[0, 5], rows[1, 6], rows[2, 7] = 7.0, 5.5, 3.5
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
        page.wait(f"{DOOR}.querySelector('.why').textContent.includes('Next try at')")
        next_try = text(page, ".tile[data-name=door] .why").partition("Next try at ")[2]
        assert re.fullmatch(r"[0-2]\d:[0-5]\d:[0-5]\d UTC\.", next_try)
        assert page.run(f"{DOOR}.querySelector('canvas').clientHeight") == 0  # no empty box
        assert text(page, ".tile[data-name=yard] .state") == "live"
        assert "320\u00d7180" in text(page, ".tile[data-name=yard] .hint")
        assert service.station.viewers.viewers == 1  # the other has no picture to show
        page.wait(f"{WHATS}.some((what) => what.startsWith('digit '))")
        times = "[...document.querySelectorAll('#events time')]"
        assert page.run(f"{times}.every((t) => t.textContent === t.dateTime.slice(11, 19))")
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


def test_tile_whose_live_view_is_refused_shows_single_pictures(page, store, cameras, tmp_path):
    two = cameras.with_name("two.toml")
    two.write_text(
        "".join(
            f'[[camera]]\nname = "{name}"\nurl = "file:yard.mp4"\n' for name in ("yard", "door")
        )
    )
    version = publish(store, seed=1)
    page.look(width=1100, height=900)
    with serving(store, cameras=two, camera_viewers=1) as (service, client):
        wait_served(service, version)
        page.open(f"{client.base_url}/live")
        for tile in (YARD, DOOR):
            page.wait(f"{tile} && Number({tile}.dataset.pictures) > 1")
        assert service.station.viewers.viewers == 1
        page.open("about:blank#left")


def test_texts_in_a_picture_can_be_read_whatever_room_it_has(page, store, tmp_path):
    ground = np.repeat(np.linspace(60, 130, 1280).astype(np.uint8)[None, :], 720, axis=0)
    frame = np.repeat(ground[..., None], 3, axis=2)
    write_video(tmp_path / "street.mp4", [np.roll(frame, 64 * i, axis=1) for i in range(10)], fps=5)
    zone = '{name = "gate", points = [[0.3, 0.1], [0.95, 0.1], [0.95, 0.9], [0.3, 0.9]]}'
    (tmp_path / "cameras.toml").write_text(
        f'[[camera]]\nname = "street"\nurl = "file:street.mp4"\nscore = 0.3\nzones = [{zone}]\n'
    )
    version = publish(store, seed=1, model="shapes", card=DETECTOR, state=sees_much())
    page.events.clear()
    picture = f"{STREET}.querySelector('canvas')"
    with serving(store, cameras=tmp_path / "cameras.toml") as (service, client):
        wait_served(service, version)
        page.look(width=1100, height=900)
        page.open(f"{client.base_url}/live")
        sizes = []
        for name, width, pixels in (
            ("tile", 1100, 640),
            ("large", 1100, 1280),
            ("phone", 360, 640),
        ):
            page.look(width=width, height=900)
            if name == "large":
                page.run(f"{STREET}.querySelector('.zoom').click()")
            page.wait(f"{STREET} && {picture}.width === {pixels}")
            page.wait(f"{WHATS}.some((what) => what.includes('came'))")
            keep(page, f"live-labels-{name}", tmp_path)
            text = _Pen(Image.new("RGB", (pixels, pixels * 720 // 1280)))._text
            sizes.append(text * page.run(f"{picture}.clientWidth") / pixels)
        assert page.run("document.documentElement.scrollWidth") <= 360
        page.look(width=1100, height=900)
        page.open("about:blank#left")

    assert min(sizes) >= 13.5, sizes  # pixels as a page counts them
    streams = [url.partition("?")[2] for url in page.asked_urls() if "stream.mjpg" in url]
    assert streams == ["width=640", "", "width=640"]
    assert page.complaints() == []


def test_live_page_offers_to_add_cameras_only_where_that_is_allowed(page, store, tmp_path):
    damaged = tmp_path / "cameras.json"
    damaged.write_text("{")
    damaged.chmod(0o600)
    page.look(width=1100, height=900)
    with serving(store, cameras_kept=damaged) as (_, client):
        page.open(f"{client.base_url}/live")
        page.wait("!document.querySelector('#cameras-empty').hidden")
        assert "FEDFLEET_CAMERAS_KEPT: must be JSON (line 1)" in text(page, "#cameras-fault")
        assert page.run("document.querySelector('#adding').hidden")
        assert "FEDFLEET_CAMERA_NETWORKS" in text(page, "#cameras-empty")
        keep(page, "live-empty", tmp_path)
        page.open("about:blank#left")


def test_live_page_adds_and_removes_cameras_and_says_which_come_back(
    page, store, cameras, tmp_path
):
    allowed = {
        "camera_networks": parse_camera_networks("127.0.0.1/32"),
        "camera_ports": frozenset({1}),
    }
    page.look(width=1100, height=900)
    page.events.clear()
    with serving(store, cameras=cameras, **allowed) as (_, client):
        page.open(f"{client.base_url}/live")
        page.wait("!document.querySelector('#adding').hidden")
        page.run("document.querySelector('#adding').open = true")
        for name, url in (("shed", "rtsp://10.0.0.1/x"), ("shed", "rtsp://127.0.0.1:1/x")):
            page.run(f"document.querySelector('#add [name=name]').value = {name!r}")
            page.run(f"document.querySelector('#add [name=url]').value = {url!r}")
            page.run("document.querySelector('#add button').click()")
            if "10.0" in url:
                page.wait("!document.querySelector('#add-error').hidden")
                assert "not an address that a camera may have" in text(page, "#add-error")
                keep(page, "live-adding", tmp_path)
        page.wait(TILE.format("shed"))
        for name, comes_back in (("shed", False), ("door", True)):
            tile = TILE.format(name)
            page.run(f"{tile}.querySelector('.link').click()")
            note = f"[...{tile}.querySelectorAll('.hint')].find((p) => p.textContent.match(/file/))"
            assert page.run(f"{tile}.querySelector('.link').textContent") == "really remove?"
            assert page.run(f"{note}.hidden") is not comes_back
            if comes_back:
                assert "back after a restart" in page.run(f"{note}.textContent")
                keep_narrow(page, "live-removing", tmp_path)
            page.run(f"{tile}.querySelector('.link').click()")
            page.wait(f"!{tile}")
        page.open("about:blank#left")

    refused = [line for line in page.complaints() if "400" in line]
    assert page.complaints() == refused


def test_live_page_tells_zones_and_ends_of_tracks_in_words_that_no_name_confuses(page, store):
    page.look(width=1100, height=900)
    thing = '{label: "circle", score: 0.87, track: 3, zones: ["left", "gate"]}'
    with serving(store) as (_, client):
        page.open(f"{client.base_url}/live")
        moved = page.run(f"SENTENCES.track_moved({{fields: {thing}}})")
        ended = page.run(f"SENTENCES.track_ended({{fields: {thing}}})")
        page.open("about:blank#left")

    assert moved == "circle 87 % #3 moves in zone \u201cleft\u201d, \u201cgate\u201d"
    assert ended == "circle 87 % #3 is gone"


@pytest.mark.parametrize("width", [390, 360])
def test_header_of_a_phone_has_one_line_for_what_is_served(page, store, width):
    line = "document.querySelector('#model')"
    model = '{name: "shapes", version: 16, round: 16, digest: "d", level: "a", backend: "onnx"}'
    page.look(width=width, height=800)
    with serving(store) as (_, client):
        for path in ("", "live", "history"):
            page.open(f"{client.base_url}/{path}")
            page.wait("document.querySelector('#model-name').textContent.startsWith('waiting')")
            heights = page.run(
                f"(() => {{ model.show({{model: {model}, detail: '', candidate: null}});"
                f" return [{line}.clientHeight, $('model-name').offsetHeight]; }})()"
            )
            assert heights[0] < 1.9 * heights[1], (path, heights)
            assert page.run("document.documentElement.scrollWidth") <= width
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
        assert page.run("document.querySelector('main').clientHeight") == 0  # no empty cards
        keep_narrow(page, "live-key", tmp_path)
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
    logged = [one["params"]["entry"] for one in page.events if one["method"] == "Log.entryAdded"]
    assert not [entry["text"] for entry in logged if "autocomplete" in entry["text"]]


def test_history_page_draws_the_rounds_and_follows_what_is_served(page, store, tmp_path):
    fill(store, 12)
    page.look(width=1100, height=1000)
    page.events.clear()
    with serving(store) as (service, client):
        wait_served(service, store.registry.version("digits", 12))
        page.open(f"{client.base_url}/history")
        page.wait("document.querySelectorAll('#chart .dot').length === 12")
        page.wait("document.querySelector('#now .big').textContent === 'digits 12'")
        assert text(page, "#chart-title") == "Accuracy of digits"
        rows = page.run("[...document.querySelectorAll('#versions tr')].map((r) => r.innerText)")
        assert len(rows) == 12
        assert rows[0].split("\t")[:2] == ["12", "12"]
        assert "served" in rows[0]
        assert "latest" in rows[0]
        assert "production" in rows[7]
        keep(page, "history-light", tmp_path)
        keep_narrow(page, "history-narrow", tmp_path)
        page.look(width=360, height=1000)
        for place in ("document.querySelector('#versions .states')", "$('versions').rows[0]"):
            page.wait(f"{place}.getBoundingClientRect().right <= 345")
        table = "document.querySelector('.scroll')"
        for width in (360, 600, 800, 930):  # nothing is cut off
            page.look(width=width, height=1000)
            page.wait(f"innerWidth === {width} && {table}.scrollWidth === {table}.clientWidth")
        page.look(width=1100, height=1000)

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


def test_history_page_tells_of_older_versions_and_shows_all_of_them(
    page, store, tmp_path, monkeypatch
):
    monkeypatch.setattr("fedfleet_inference_api.history_routes.USUAL", 5)
    fill(store, 33)
    page.look(width=1100, height=1000)
    page.events.clear()
    with serving(store) as (service, client):
        wait_served(service, store.registry.version("digits", 33))
        page.open(f"{client.base_url}/history")
        page.wait("document.querySelectorAll('#chart .dot').length === 5")
        title = "Accuracy of digits, the newest 5 of 33 versions"
        assert text(page, "#chart-title") == title
        assert text(page, "#more") == "show all 33"
        keep_narrow(page, "history-part", tmp_path)
        page.run("document.querySelector('#more').click()")
        page.wait("document.querySelectorAll('#chart .dot').length === 33")
        page.wait("document.querySelectorAll('#versions tr').length === 33")
        assert text(page, "#chart-title") == "Accuracy of digits"
        assert page.run("document.querySelector('#more').hidden")
        keep(page, "history-whole", tmp_path)
        page.open("about:blank#left")

    assert page.complaints() == []


def test_history_of_one_version_stands_on_the_whole_scale_and_names_its_measure(
    page, store, tmp_path
):
    scores = {"map50": 0.957, "map": 0.7}
    counts = {"samples": 1000, "correct": 872, "loss_sum": 900.0, "scores": scores}
    version = publish(
        store, seed=1, model="shapes", card=DETECTOR, metrics={"evaluation": counts, "updates": 4}
    )
    page.look(width=1100, height=900)
    page.events.clear()
    with serving(store) as (service, client):
        wait_served(service, version)
        page.open(f"{client.base_url}/history")
        page.wait("document.querySelectorAll('#chart .dot').length === 1")
        ticks = page.run("[...document.querySelectorAll('#chart text')].map((t) => t.textContent)")
        assert {"0 %", "100 %"} <= set(ticks)
        assert text(page, "#chart-title") == "mAP at 0.5 of shapes"
        assert "by the coordinator" in text(page, "#measured")
        keep_narrow(page, "history-one", tmp_path)
        page.run("history_ = { ...history_, measured_by: 'workers' }, draw()")
        assert text(page, "#chart-title") == "mAP at 0.5 on workers of shapes"
        assert "by the workers" in text(page, "#measured")
        page.open("about:blank#left")

    assert page.complaints() == []


def test_chart_goes_on_over_versions_that_were_not_evaluated(page, store, tmp_path):
    for number in range(1, 8):
        metrics = evaluated(100 * number) if number % 2 else {"updates": 4}
        version = publish(store, seed=number, metrics=metrics)
    page.look(width=1100, height=900)
    with serving(store) as (service, client):
        wait_served(service, version)
        page.open(f"{client.base_url}/history")
        page.wait("document.querySelectorAll('#chart .dot').length === 4")
        path = page.run("document.querySelector('#chart .between').getAttribute('d')")
        keep(page, "history-every-other", tmp_path)
        page.open("about:blank#left")

    assert path.count("M") == path.count("L") == 3


def test_history_page_that_needs_a_key_shows_no_empty_cards(page, store, tmp_path):
    with serving(store, rest_auth="on") as (_, client):
        page.open(f"{client.base_url}/history")
        page.wait("!document.querySelector('#key').hidden")
        assert page.run("document.querySelector('main').clientHeight") == 0
        page.open("about:blank#left")


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
        keep_narrow(page, "page-detector-narrow", tmp_path)
        low = client.post("/predict?score=0.05", content=picture.read_bytes()).json()["detections"]
        told = {}
        for least in (0.7, 0.05, 0.4):
            page.run(f"$('least-score').value = {least}")
            page.run("$('least-score').dispatchEvent(new Event('input'))")
            expected = sum(one["score"] >= least for one in low)
            page.wait(f"document.querySelectorAll('#bars .found').length === {expected}")
            told[least] = text(page, "#least-told")
            keep(page, f"page-detector-{least}", tmp_path)

    assert len(low) > len(answer["detections"]) > 1
    assert told == {0.7: "70 %", 0.05: "5 %", 0.4: "40 %"}
    assert [url.partition("?")[2] for url in page.asked_urls() if "/predict" in url] == [
        "",
        "score=0.05",
    ]
    assert shown == len(answer["detections"])
    drawn = np.array(pixel, np.uint8).reshape(480, 640, 4)[..., :3]
    assert (np.abs(drawn.astype(int) - (230, 159, 0)).max(axis=2) < 12).sum() > 500
    assert page.complaints() == []


def test_page_places_no_label_over_another(page, store):
    """A false triangle within a star, and a box in each corner: eight labels that all stay."""
    boxes = [(0.3, 0.3, 0.8, 0.8), (0.3, 0.3, 0.7, 0.7), (0.31, 0.31, 0.72, 0.6)]
    boxes += [(0, 0, 0.3, 0.3), (0.7, 0, 1, 0.3), (0, 0.7, 0.3, 1), (0.7, 0.7, 1, 1), (0, 0, 1, 1)]
    sides = ("left", "top", "right", "bottom")
    found = [
        {"label": "triangle", "index": 2, "score": 0.5, "box": dict(zip(sides, box, strict=True))}
        for box in boxes
    ]
    with serving(store) as (_, client):
        page.open(f"{client.base_url}/")
        spots = page.run(
            "(() => { const canvas = document.createElement('canvas');"
            " canvas.width = canvas.height = 640;"
            f" return drawBoxes(canvas, {json.dumps(found)}); }})()"
        )
        page.open("about:blank#left")

    assert len(spots) == len(boxes)
    for place, one in enumerate(spots):
        assert 0 <= one["left"] <= 640 - one["wide"]
        assert 0 <= one["top"] <= 640 - one["tall"]
        for other in spots[:place]:
            across = min(one["left"] + one["wide"], other["left"] + other["wide"])
            down = min(one["top"] + one["tall"], other["top"] + other["tall"])
            is_apart = across <= max(one["left"], other["left"]) or down <= max(
                one["top"], other["top"]
            )
            assert is_apart, (one, other)
