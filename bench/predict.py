"""POST /predict at 1, 8 and 32 callers: requests per second and latency, ours against others.

mobilenet_v3_small and ResNet-18, 1000 classes, JPEGs of the models' 224x224 (decode.py times what
larger ones take, which is the same for all) as base64 in JSON. The same bodies go to (a) a plain
FastAPI handler in eager PyTorch, (b) LitServe with batching, eager, as its guide shows, (c)
LitServe with our backends inside, (d) our service, a real process over HTTP. Each caller asks again
as soon as it is answered; the callers are a process of their own. Servers take turns, twice; those
that are not being asked are stopped (SIGSTOP). Targets at 32 callers: twice (b), no less than (c);
at one caller a median below (a)'s. About six minutes on two cores. LitServe comes from the package
registry; without it (a), (b) and (c) are not compared.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from closed_loop import Load, load
from peers.environment import install
from peers.litserve import server as peer
from peers.plugins import write_plugins
from PIL import Image
from processes import await_port, descendants, free_port, process
from record import record

from fedfleet.data.decode import decode_image, fit_pixels
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.models.config import MobileNetOptions, ModelConfig
from fedfleet.store.open import open_store
from fedfleet.store.protocols import VersionRecord
from fedfleet.training.state import schema_of, state_of
from fedfleet.types import InputSpec
from fedfleet.wire.weights import encode_state

CALLERS = (1, 8, 32)
SECONDS = 4.0
TURNS = 2
BATCH = 8
IMAGES = 64
START_S = 120.0
PATH = "/predict"
OURS, HANDLER, LITSERVE, LITSERVE_OURS = "ours", "handler", "litserve", "litserve_our_backend"
INPUTS = InputSpec(
    channels=3, height=224, width=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
MODELS = {
    "mobilenet_v3_small": ModelConfig(
        architecture="mobilenet_v3_small", options=MobileNetOptions(stem="imagenet")
    ),
    "resnet18": ModelConfig(architecture="resnet18_224", options={}),
}
ENTRY_POINTS = """
[fedfleet.models]
resnet18_224 = resnet18_224:plugin
"""


def jpegs() -> list[bytes]:
    """Pictures with the detail of photographs, of the models' size."""
    rng = np.random.default_rng(1)
    made = []
    for _ in range(IMAGES):
        coarse = rng.integers(0, 256, (15, 15, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((224, 224), Image.Resampling.BICUBIC)
        noisy = np.asarray(image).astype(np.int16) + rng.integers(-6, 7, (224, 224, 3))
        file = BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        made.append(file.getvalue())
    return made


def write_model(config: ModelConfig, folder: Path, images: Sequence[bytes]) -> VersionRecord:
    """Write a version's files for the peers and its record for a store, which has none yet.

    Its weights are random, its statistics those of the images: else every answer is the same.
    """
    card = ModelCard(
        model=config, inputs=INPUTS, classes=tuple(f"class {number}" for number in range(1000))
    )
    torch.manual_seed(1)
    module = build(card)
    for layer in module.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._NormBase):
            layer.momentum = None
    pixels = np.stack(
        [fit_pixels(decode_image(one), channels=3, height=224, width=224) for one in images[:32]]
    )
    normal = torch.from_numpy(pixels).float() / 255 - torch.tensor(INPUTS.mean).view(-1, 1, 1)
    with torch.no_grad():
        module.train()(normal / torch.tensor(INPUTS.std).view(-1, 1, 1))
    schema = schema_of(module)
    data = encode_state(state_of(module, schema))
    (folder / "weights.safetensors").write_bytes(data)
    (folder / "card.json").write_text(json.dumps(card.to_json()))
    with open_store(f"sqlite:{folder / 'store'}") as store:
        return store.registry.add(
            VersionRecord(
                model="bench",
                number=1,
                digest=store.blobs.put(data),
                size_bytes=len(data),
                schema=schema,
                run_id="bench",
                round=1,
                parent=None,
                created_at_s=time.time(),
                card=card.to_json(),
            ),
            ("latest",),
        )


@contextmanager
def ours(folder: Path) -> Iterator[int]:
    """Our service as a user starts it."""
    port = free_port()
    with process(
        (sys.executable, "-m", "fedfleet_inference_api"),
        folder / "ours.log",
        FEDFLEET_STORE=f"sqlite:{folder / 'store'}",
        FEDFLEET_SIGNER="none",
        FEDFLEET_INFERENCE_PORT=str(port),
        FEDFLEET_MAX_BATCH=str(BATCH),
    ):
        await_port(port, START_S)
        await_choice(folder / "ours.log")
        yield port


def await_choice(log: Path) -> None:
    """Return when the backend was chosen: the service answers with plain torch until then."""
    until_s = time.monotonic() + START_S
    while '"backend_chosen"' not in log.read_text():
        if time.monotonic() > until_s:
            raise RuntimeError(f"no backend was chosen within {START_S:g} s")
        time.sleep(0.2)


def ask(port: int, body: bytes) -> list[dict[str, Any]]:
    """Predictions of one image; waits for a server that has only begun to listen."""
    until_s = time.monotonic() + START_S
    while True:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{PATH}", body, {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                predictions: list[dict[str, Any]] = json.load(response)["predictions"]
                return predictions
        except OSError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.2)


def disagreements(ports: dict[str, int], bodies: Sequence[bytes]) -> dict[str, float]:
    """By how much a server's most probable class differs in probability from the handler's."""
    found = dict.fromkeys(ports, 0.0)
    for body in bodies[:8]:
        want = ask(ports[HANDLER], body)
        for name, port in ports.items():
            chances = {p["index"]: p["probability"] for p in ask(port, body)}
            apart = abs(chances.get(want[0]["index"], 0.0) - want[0]["probability"])
            found[name] = max(found[name], apart)
    return found


@contextmanager
def awake(children: dict[str, set[int]], name: str) -> Iterator[None]:
    """Stop every server's processes but one's."""
    others = set().union(*(pids for other, pids in children.items() if other != name))
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


def processor_s(pids: set[int]) -> float:
    """Processor time of living processes so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # in user mode, in the kernel
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(folder: Path, plugins: Path, has_peer: bool) -> dict[str, list[Load]]:
    """Loads of every server, at each number of callers, the best of its turns."""
    bodies = sorted((folder / "bodies").iterdir())
    with ExitStack() as stack:
        ports: dict[str, int] = {}
        children: dict[str, set[int]] = {}
        starts: dict[str, Callable[[], AbstractContextManager[int]]] = {OURS: lambda: ours(folder)}
        if has_peer:
            starts |= {
                HANDLER: lambda: peer.serving(folder, plugins, "handler", BATCH),
                LITSERVE: lambda: peer.serving(folder, plugins, "eager", BATCH),
                LITSERVE_OURS: lambda: peer.serving(folder, plugins, "ours", BATCH),
            }
        for name, start in starts.items():
            before = descendants(os.getpid())
            ports[name] = stack.enter_context(start())
            ask(ports[name], bodies[0].read_bytes())
            children[name] = descendants(os.getpid()) - before
        if has_peer:
            apart = disagreements(ports, [body.read_bytes() for body in bodies])
            assert max(apart.values()) < 0.05, f"the servers do not do the same: {apart}"
        found: dict[str, list[list[Load]]] = {name: [[] for _ in CALLERS] for name in ports}
        for _ in range(TURNS):
            for place, callers in enumerate(CALLERS):
                for name, port in ports.items():
                    with awake(children, name):
                        before_s = processor_s(children[name])
                        one = load(port, PATH, callers, SECONDS, folder / "bodies")
                        spent_s = processor_s(children[name]) - before_s
                    one = replace(one, cpu_ms=1e3 * spent_s / one.answers)
                    found[name][place].append(one)
    return {name: [best(turns) for turns in rows] for name, rows in found.items()}


def best(turns: list[Load]) -> Load:
    """The turn with the most answers: whatever else the machine did took from the others."""
    return max(turns, key=lambda one: one.per_s)


def bench(name: str, config: ModelConfig, plugins: Path, missing: str) -> None:
    images = jpegs()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "bodies").mkdir()
        for number, image in enumerate(images):
            body = json.dumps({"image": base64.b64encode(image).decode()})
            (folder / "bodies" / f"{number:03}.json").write_text(body)
        write_model(config, folder, images)
        found = measure(folder, plugins, not missing)
        log = (folder / "ours.log").read_text()
    chosen = next((line for line in log.splitlines() if "backend_chosen" in line), "{}")
    figures: dict[str, object] = {
        server: [{key: round(value, 2) for key, value in asdict(one).items()} for one in rows]
        for server, rows in found.items()
    }
    failed = sum(one.failed for rows in found.values() for one in rows)
    if missing:
        record("predict", None, model=name, not_compared=f"no LitServe: {missing}", **figures)
        return
    ratios = {
        server: [
            round(mine.per_s / its.per_s, 2) for mine, its in zip(found[OURS], rows, strict=True)
        ]
        for server, rows in found.items()
        if server != OURS
    }
    first = found[OURS][0].p50_ms, found[HANDLER][0].p50_ms
    holds = ratios[LITSERVE][-1] >= 2 and ratios[LITSERVE_OURS][-1] >= 1 and first[0] < first[1]
    record(
        "predict",
        holds and failed == 0,
        model=name,
        image_bytes=round(statistics.mean(len(image) for image in images)),
        backend={k: v for k, v in json.loads(chosen).items() if k in BACKEND_FIELDS},
        **figures,
        ratios_of_answers_per_s=ratios,
        p50_of_one_caller_ms=[round(value, 2) for value in first],
        targets={"32 callers over litserve": 2, "over litserve_our_backend": 1, "p50": "< handler"},
        failed=failed,
    )


BACKEND_FIELDS = ("few", "many", "few_up_to", "one_ms", "batch_ms")


def main() -> None:
    missing = install(peer.NAME)
    with tempfile.TemporaryDirectory() as temporary:
        plugins = Path(temporary)
        write_plugins(plugins, [peer.APP / "resnet18_224.py"], ENTRY_POINTS)
        for name, config in MODELS.items():
            if len(sys.argv) < 2 or name in sys.argv[1:]:
                bench(name, config, plugins, missing)


if __name__ == "__main__":
    main()
