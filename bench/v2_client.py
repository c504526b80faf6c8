"""The KServe V2 protocol asked by tritonclient: do its answers agree, what do binary tensors save?

mobilenet_v3_small, 1000 classes, our service as a real process over HTTP. Triton's own client, from
the package registry and in an environment of its own, asks in every form that it has, its usual one
among them (binary data both ways); each answer has to be the one of /predict for the same pixels.
Then three forms of the same request at 1 and 8 callers, on raw sockets, so that no client's own
cost is in it: V2 with JSON numbers, V2 with binary data, /predict with a JPEG as base64. They take
turns, three times. The client's own rates stand beside them. Targets: every answer agrees; at 8
callers binary data are answered five times as often as JSON and no less often than /predict, within
5 %. About two minutes on two cores. Without a registry only the forms are compared.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from closed_loop import Load, load
from peers.environment import HERE, command, install
from PIL import Image
from predict import INPUTS, MODELS, best, jpegs, ours, processor_s, write_model
from processes import descendants
from record import record

from fedfleet.data.decode import decode_image, fit_pixels
from fedfleet.data.images import Pixels

CLIENT = "tritonclient"
MODEL = "mobilenet_v3_small"
NAME = "bench"  # of the model, as ``write_model`` registers it
INFER = f"/v2/models/{NAME}/infer"
PREDICT, V2_JSON, V2_BINARY = "predict", "v2_json", "v2_binary"
CALLERS = (1, 8)
SECONDS = 4.0
TURNS = 3
COMPARED = 8
START_S = 120.0
# Share of a probability: batches of other sizes are rounded in another order.
MOST_APART = 1e-3
BINARY_OVER_JSON = 5.0
BINARY_OVER_PREDICT = 0.95  # the model takes most of the time of both


def write_bodies(
    folder: Path, images: Sequence[bytes], shown: Sequence[Pixels]
) -> dict[str, list[str]]:
    """Write the bodies of each form into a folder of its name; returns the headers of each."""
    headers: dict[str, list[str]] = {PREDICT: [], V2_JSON: [], V2_BINARY: []}
    for form in headers:
        (folder / form).mkdir()
    for number, (image, pixels) in enumerate(zip(images, shown, strict=True)):
        file = f"{number:03}"
        body = {"image": base64.b64encode(image).decode()}
        (folder / PREDICT / file).write_text(json.dumps(body))
        tensor = {"name": "image", "shape": [1, *pixels.shape], "datatype": "UINT8"}
        as_json = {"inputs": [{**tensor, "data": pixels.ravel().tolist()}]}
        (folder / V2_JSON / file).write_text(json.dumps(as_json))
        described = {**tensor, "parameters": {"binary_data_size": pixels.nbytes}}
        asked = {"inputs": [described], "parameters": {"binary_data_output": True}}
        text = json.dumps(asked).encode()
        (folder / V2_BINARY / file).write_bytes(text + pixels.tobytes())
        headers[V2_BINARY] = [f"inference-header-content-length:{len(text)}"]
    return headers


def ask_with_client(port: int, folder: Path, shown: Sequence[Pixels]) -> dict[str, Any]:
    """What tritonclient was told and answered. Any: JSON of the caller's script."""
    images = folder / "images"
    images.mkdir()
    for number, pixels in enumerate(shown):
        (images / f"{number:03}").write_bytes(pixels.tobytes())
    script = HERE / CLIENT / "app" / "caller.py"
    arguments = (str(port), NAME, str(images), str(SECONDS))
    run = subprocess.run(
        (command(CLIENT, "python"), str(script), *arguments),
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        raise SystemExit(f"{CLIENT}: {run.stderr[-1000:]}")
    told: dict[str, Any] = json.loads(run.stdout)
    return told


def disagreements(
    port: int, shown: Sequence[Pixels], answers: Mapping[str, Sequence[Sequence[float]]]
) -> dict[str, float]:
    """By what share a probability differs from that of /predict for the same pixels, at most."""
    want = np.stack([predicted(port, pixels) for pixels in shown])
    spread = (want.max(axis=0) / want.min(axis=0)).max()
    assert spread > 1 + 10 * MOST_APART, "every image is answered alike"
    return {form: float(np.abs(rows / want - 1).max()) for form, rows in answers.items()}


def predicted(port: int, pixels: Pixels) -> np.ndarray:
    """The probabilities of all classes, in their order."""
    file = BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "PNG")
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict?k=1000", file.getvalue(), {"content-type": "image/png"}
    )
    with urllib.request.urlopen(request, timeout=START_S) as response:
        predictions = json.load(response)["predictions"]
    found = np.zeros(len(predictions))
    for one in predictions:
        found[one["index"]] = one["probability"]
    return found


def measure(
    port: int, pids: set[int], folder: Path, headers: Mapping[str, Sequence[str]]
) -> dict[str, list[Load]]:
    """Loads of each form at each number of callers, the best of its turns."""
    paths = {PREDICT: "/predict", V2_JSON: INFER, V2_BINARY: INFER}
    found: dict[str, list[list[Load]]] = {form: [[] for _ in CALLERS] for form in paths}
    for _ in range(TURNS):
        for place, callers in enumerate(CALLERS):
            for form, path in paths.items():
                before_s = processor_s(pids)
                one = load(port, path, callers, SECONDS, folder / form, headers[form])
                spent_s = processor_s(pids) - before_s
                found[form][place].append(replace(one, cpu_ms=1e3 * spent_s / one.answers))
    return {form: [best(turns) for turns in rows] for form, rows in found.items()}


def ratios(loads: Mapping[str, Sequence[Load]], over: str) -> list[float]:
    """How many times as many answers per second binary data have, at each number of callers."""
    return [
        round(binary.per_s / other.per_s, 2)
        for binary, other in zip(loads[V2_BINARY], loads[over], strict=True)
    ]


def main() -> None:
    missing = install(CLIENT)
    images = jpegs()
    shown = [
        fit_pixels(decode_image(image), channels=3, height=INPUTS.height, width=INPUTS.width)
        for image in images
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(MODELS[MODEL], folder, images)
        headers = write_bodies(folder, images, shown)
        before = descendants(os.getpid())
        with ours(folder) as port:
            pids = descendants(os.getpid()) - before
            loads = measure(port, pids, folder, headers)
            told: dict[str, Any] = {}
            apart: dict[str, float] = {}
            if not missing:
                told = ask_with_client(port, folder, shown[:COMPARED])
                apart = disagreements(port, shown[:COMPARED], told.pop("answers"))
    report(missing, told, apart, loads)


def report(
    missing: str,
    told: Mapping[str, Any],
    apart: Mapping[str, float],
    loads: Mapping[str, Sequence[Load]],
) -> None:
    over_json, over_predict = ratios(loads, V2_JSON), ratios(loads, PREDICT)
    failed = sum(one.failed for rows in loads.values() for one in rows)
    is_fast = over_json[-1] >= BINARY_OVER_JSON and over_predict[-1] >= BINARY_OVER_PREDICT
    agrees = max(apart.values(), default=0.0) <= MOST_APART
    client = {"not_asked": missing} if missing else told
    record(
        "v2_client",
        None if missing else is_fast and agrees and failed == 0,
        model=MODEL,
        client=client,
        probability_apart={form: round(value, 7) for form, value in apart.items()},
        **{
            form: [{key: round(value, 2) for key, value in asdict(one).items()} for one in rows]
            for form, rows in loads.items()
        },
        binary_over_json=over_json,
        binary_over_predict=over_predict,
        targets={
            "probability_apart": MOST_APART,
            "8 callers over json": BINARY_OVER_JSON,
            "8 callers over predict": BINARY_OVER_PREDICT,
        },
        failed=failed,
    )


if __name__ == "__main__":
    main()
