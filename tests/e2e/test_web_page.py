"""A real browser on the page: choose or drop an image, see five bars, see a new version come."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from chromium import PATH, Page, chromium
from PIL import Image
from serving import CARD, add_key, publish, serving, wait_served

from fedfleet.data.config import DigitsOptions
from fedfleet.data.digits import DIGITS
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.models.config import MlpOptions, ModelConfig
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet.training.state import initial_state, load_state, schema_of, state_of
from fedfleet.types import ModelState
from fedfleet_inference_api.backends.backend import Prepared

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PATH is None, reason="no Chromium here (Debian's package chromium)"),
]

SPEC = DIGITS.describe(DigitsOptions())
DIGIT_CARD = ModelCard(
    model=ModelConfig(architecture="mlp", options=MlpOptions(hidden=())),
    inputs=SPEC.inputs,
    classes=SPEC.classes,
)
TEST = DIGITS.open(DigitsOptions(), "test", None)
ROW = 4
LABEL = int(TEST.labels[ROW])

BARS = "[...document.querySelectorAll('#bars li')]"
LABELS = f"{BARS}.map((row) => row.querySelector('.label').textContent)"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path / 'state'}") as opened:
        yield opened


@pytest.fixture
def digit(tmp_path) -> Path:
    """A real handwritten digit as a PNG file."""
    path = tmp_path / "digit.png"
    Image.fromarray(TEST.load(np.array([ROW]))[0, 0]).save(path)
    return path


def trained(steps: int) -> ModelState:
    """Softmax regression on the real digits: full batches, the same weights every time."""
    train = DIGITS.open(DigitsOptions(), "train", None)
    module = build(DIGIT_CARD)
    load_state(module, initial_state(DIGIT_CARD, 1))
    images = train.load(np.arange(len(train.labels)))
    scaled = Prepared(module, DIGIT_CARD.inputs).normalise(torch.from_numpy(images))
    module.train().requires_grad_(True)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        logits = module(scaled)
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(train.labels)).backward()
        optimizer.step()
    return state_of(module, schema_of(module))


def text(page: Page, selector: str) -> str:
    return str(page.run(f"document.querySelector({selector!r}).innerText"))


def keep(page: Page, name: str, tmp_path: Path) -> None:
    """Take a screenshot; FEDFLEET_SCREENSHOTS names a folder where a person looks at it."""
    page.run("Promise.all(document.getAnimations().map((a) => a.finished))")
    folder = Path(os.environ.get("FEDFLEET_SCREENSHOTS", tmp_path))
    page.screenshot(folder / f"{name}.png")
    with Image.open(folder / f"{name}.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50  # not a blank page


def test_page_shows_the_answer_of_the_api_and_follows_the_next_version(
    page, store, digit, tmp_path
):
    first = publish(store, seed=1, card=DIGIT_CARD, state=trained(steps=8))
    page.look(width=1100, height=760)
    page.open("about:blank#left")  # what the page before still asks for is not ours
    page.events.clear()
    with serving(store) as (service, client):
        wait_served(service, first)
        page.open(f"{client.base_url}/")
        page.wait("document.querySelector('#model.serving')")
        assert text(page, "#model").split("\n") == ["digits", "version 1", "round 1", "torch"]
        keep(page, "page-empty", tmp_path)

        page.choose("#file", digit)
        page.wait(f"{BARS}.length === 5 && !document.querySelector('#preview').hidden")
        answer = client.post("/predict", content=digit.read_bytes()).json()
        expected = [p["label"] for p in answer["predictions"]]
        percents = [f"{100 * p['probability']:.1f} %" for p in answer["predictions"]]
        assert page.run(LABELS) == expected
        assert page.run(f"{BARS}.map((r) => r.querySelector('.percent').textContent)") == percents
        widths = page.run(f"{BARS}.map((r) => parseFloat(r.querySelector('.fill').style.width))")
        assert widths == pytest.approx(
            [100 * p["probability"] for p in answer["predictions"]], abs=0.01
        )
        keep(page, "page-light", tmp_path)
        page.look(width=1100, height=760, dark=True)
        keep(page, "page-dark", tmp_path)
        page.look(width=390, height=1000)
        keep(page, "page-narrow", tmp_path)
        assert page.run("document.documentElement.scrollWidth") <= 390

        second = publish(store, seed=2, card=DIGIT_CARD, state=trained(steps=100))
        wait_served(service, second)
        page.wait("document.querySelector('#model-version').textContent === 'version 2'")
        page.wait("document.querySelector('#provenance').textContent.includes('version 2')")
        assert page.run(LABELS)[0] == str(LABEL)

    hosts = {httpx.URL(url).netloc for url in page.asked_urls()}
    assert hosts == {client.base_url.netloc}
    assert page.complaints() == []


def test_page_takes_a_dropped_file_and_says_what_is_wrong_with_a_bad_one(
    page, store, digit, tmp_path
):
    version = publish(store, seed=1)
    junk = tmp_path / "notes.txt"
    junk.write_text("no image")
    page.look(width=1100, height=760)
    with serving(store) as (service, client):
        wait_served(service, version)
        page.open(f"{client.base_url}/")

        page.drop(".target", digit)
        page.wait(f"{BARS}.length === 5")
        page.drop(".target", junk)
        page.wait("!document.querySelector('#error').hidden")
        assert "not a readable image" in text(page, "#error")
        assert text(page, "#error").endswith("(IMAGE_INVALID)")
        assert page.run(f"{BARS}.length") == 0
        keep(page, "page-error", tmp_path)

        page.drop(".target", digit)
        page.wait(f"{BARS}.length === 5")
        assert page.run("document.querySelector('#error').hidden")


def test_page_waits_for_the_first_version_and_notices_that_the_service_is_gone(page, store):
    with serving(store) as (_, client):
        page.open(f"{client.base_url}/")
        page.wait("document.querySelector('#model-name').textContent.startsWith('waiting')")
        publish(store, seed=1)
        page.wait("document.querySelector('#model.serving')")

    page.wait("document.querySelector('#model.lost')")
    assert text(page, "#model") == "service not reachable"


def test_page_shows_labels_as_text(page, store, digit):
    hostile = ("<img src=x onerror=alert(1)>", *(f"class {n} {'long ' * 30}" for n in range(9)))
    from_card = publish(store, seed=1, card=with_classes(hostile))
    with serving(store) as (service, client):
        wait_served(service, from_card)
        page.open(f"{client.base_url}/")
        page.choose("#file", digit)
        page.wait(f"{BARS}.length === 5")

        assert page.run("document.querySelectorAll('#bars img').length") == 0
        assert set(page.run(LABELS)) <= set(hostile)


def type_key(page: Page, text: str) -> None:
    page.run(f"document.querySelector('#key-text').value = {text!r}")
    page.run("document.querySelector('#key button').click()")


def test_page_asks_for_a_key_and_keeps_it_in_its_tab_alone(page, store, digit, tmp_path):
    version = publish(store, seed=1, card=DIGIT_CARD, state=trained(steps=8))
    key, other = add_key(store, "predict"), add_key(store, "models:promote")
    page.look(width=1100, height=760)
    page.open("about:blank#left")  # what the page before still asks for is not ours
    page.events.clear()
    with serving(store, rest_auth="on") as (service, client):
        wait_served(service, version)
        page.open(f"{client.base_url}/")
        page.wait("!document.querySelector('#key').hidden")
        page.wait("document.querySelector('#model-name').textContent === 'a key is needed'")
        assert text(page, "#key-reason") == "This service answers those who have a key."
        assert "fedfleet key create" in text(page, "#key-hint")
        links = "[...document.querySelectorAll('.keyless')]"
        assert page.run(f"{links}.length === 3 && {links}.every((a) => a.hidden)")
        assert "X-API-Key: $KEY" in text(page, "#curl")
        keep(page, "page-key", tmp_path)
        page.look(width=1100, height=760, dark=True)
        keep(page, "page-key-dark", tmp_path)
        page.look(width=390, height=1000)
        keep(page, "page-key-narrow", tmp_path)
        assert page.run("document.documentElement.scrollWidth") <= 390
        page.look(width=1100, height=760)

        type_key(page, "flk_wrong")
        page.wait("document.querySelector('#key-reason').textContent.includes('not a key')")
        type_key(page, "k\u00e9y")
        page.wait("document.querySelector('#key-reason').textContent.includes('That is not')")
        type_key(page, other.text)
        page.wait("document.querySelector('#key-reason').textContent.includes('needs the scope')")
        type_key(page, f" {key.text} ")
        page.wait("document.querySelector('#model.serving')")
        assert page.run("document.querySelector('#key').hidden")
        page.choose("#file", digit)
        page.wait(f"{BARS}.length === 5")
        keep(page, "page-with-key", tmp_path)

        # It is in no cookie, no address and nowhere that outlives the tab.
        assert page.run("Object.values(sessionStorage)") == [key.text]
        assert page.run("document.cookie + Object.values(localStorage)") == ""
        assert page.run("document.querySelector('#key-text').value") == ""
        assert not any(key.text in url for url in page.asked_urls())

        page.run("document.querySelector('#forget').click()")
        page.wait("!document.querySelector('#key').hidden")
        assert page.run("sessionStorage.length") == 0
        keep(page, "page-key-forgotten", tmp_path)

        type_key(page, key.text)
        page.wait("document.querySelector('#model.serving')")
        store.access.delete_key(key.id)  # a key that is revoked is asked for again
        page.wait("!document.querySelector('#key').hidden")
        assert "revoked" in text(page, "#key-reason")

    refused = [line for line in page.complaints() if "401" in line or "403" in line]
    assert page.complaints() == refused


def with_classes(classes: tuple[str, ...]) -> ModelCard:
    return replace(CARD, classes=classes)
