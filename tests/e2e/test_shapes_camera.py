"""From a recipe to a camera: a fleet trains a detector, the inference service takes that version
from the registry, and what a camera films is told with it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import fleet, running_coordinator
from serving import serving, wait_served
from video import write_video

from fedfleet.data.shape_drawing import NAMES
from fedfleet.data.shapes_scene import Mover, moving_scene
from fedfleet.store.protocols import Store, VersionRecord
from fedfleet.types import Evaluation
from fedfleet.v1 import control_service_pb2 as control_pb

ROUNDS = 6
# Reduced from recipes/shapes.toml: fewer and smaller pictures, and of fewer shapes.
RECIPE = f"""
name = "shapes"
seed = 1
kind = "detection"
[model]
architecture = "ssd_tiny"
[data]
dataset = "shapes"
samples = 800
image_size = 96
most = 2
partition = "iid"
workers = 2
[training]
epochs = 2
batch_size = 16
optimizer = "adam"
lr = 0.003
scheduler = "cosine"
augment = "flip"
validation_fraction = 0.0
threads = 1
[algorithm]
name = "fedavg"
statistics = "pooled"
[rounds]
rounds = {ROUNDS}
cohort = 2
[evaluation]
every = {ROUNDS}
"""
FILMED = NAMES.index("circle")
# On two cores that do nothing else it is a tenth of that.
TRAINING_S = 400.0
PATIENCE_S = 60.0


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_camera_tells_what_the_version_that_the_fleet_trained_sees(tmp_path: Path) -> None:
    film(tmp_path / "yard.mp4")
    async with running_coordinator(tmp_path / "state") as running:
        run_id = await running.submit(RECIPE)
        with fleet(running.address, 2, tmp_path):
            request = control_pb.WatchRunRequest(run_id=run_id)
            async for response in running.control.WatchRun(request, timeout=TRAINING_S):
                if response.event.kind == "run_finished":
                    break
        assert (await running.show(run_id)).run.reason == ""
        version = running.store.registry.version("shapes", ROUNDS)
        assert Evaluation.from_json(version.metrics["evaluation"]).quality > 0.3

        events = await asyncio.to_thread(told, running.store, version, tmp_path)

    first = events[0]
    assert first["camera"] == "yard"
    assert first["model"] == {
        "name": "shapes",
        "version": ROUNDS,
        "round": ROUNDS,
        "digest": version.digest,
    }
    labels = [event["fields"]["label"] for event in events]
    assert labels.count(NAMES[FILMED]) >= 1, labels


def film(path: Path) -> None:
    """A circle goes to and fro in a textured yard."""
    mover = Mover(label=FILMED, x=0.3, y=0.5, dx=0.12, size=0.4)
    frames = moving_scene([mover], frames=90, fps=15, height=240, width=320)
    write_video(path, (frame.pixels for frame in frames), fps=15)


def told(store: Store, version: VersionRecord, folder: Path) -> list[dict[str, Any]]:
    """The first tracks of what a service with a camera sees, until the shape is named."""
    settings = folder / "cameras.toml"
    settings.write_text('[[camera]]\nname = "yard"\nurl = "file:yard.mp4"\nscore = 0.4\n')
    with serving(store, serve_model="shapes", cameras=settings) as (service, client):
        wait_served(service, version)
        query = {"kind": "track_started", "last": 100}
        found = []
        with client.stream("GET", "/events", params=query) as response:
            deadline_s = time.monotonic() + PATIENCE_S
            for event in read_events(response.iter_lines()):
                found.append(event)
                if event["fields"]["label"] == NAMES[FILMED] or time.monotonic() > deadline_s:
                    return found
    raise AssertionError(f"the stream ended after {found}")


def read_events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The events of a stream of Server-Sent Events."""
    for line in lines:
        if line.startswith("data:"):
            yield json.loads(line.removeprefix("data:"))
