"""Asks a server as users of tritonclient.http do: PORT MODEL FOLDER SECONDS; prints one JSON line.

The folder's files are images: the bytes of their pixels. How they are sent follows from what the
server says of the model. Answers come back as lists, for whoever knows what they have to be.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

TOGETHER = 8
# Where pixels and probabilities are: in the JSON, or behind it as the client does by default.
FORMS = {
    "binary": (True, True),
    "json": (False, False),
    "binary_in_json_out": (True, False),
    "json_in_binary_out": (False, True),
}


def main() -> None:
    port, model, folder, seconds = sys.argv[1:]
    images = [np.frombuffer(file.read_bytes(), np.uint8) for file in sorted(Path(folder).iterdir())]
    with InferenceServerClient(f"127.0.0.1:{port}", concurrency=TOGETHER) as server:
        described = server.get_model_metadata(model)
        shape = [1, *described["inputs"][0]["shape"][1:]]
        images = [image.reshape(shape) for image in images]
        told = tell(server, model)
        answers = {name: ask_each(server, model, images, *form) for name, form in FORMS.items()}
        answers["usual"] = [usual(server, model, image) for image in images]
        answers["shares"] = [
            usual(server, model, (image / 255).astype(np.float32)) for image in images
        ]
        answers["together"] = usual(server, model, np.concatenate(images))
        answers["at_once"] = at_once(server, model, images)
        rates = {
            name: rate(lambda form=FORMS[name]: one(server, model, images[0], *form), seconds)
            for name in ("binary", "json")
        }
    rows = {form: np.reshape(said, (len(images), -1)).tolist() for form, said in answers.items()}
    print(json.dumps({**told, "per_s": rates, "answers": rows}))


def tell(server: InferenceServerClient, model: str) -> dict[str, Any]:
    """What the server says of itself, in the client's own words."""
    try:
        server.get_model_config(model)
        config = "answered"
    except InferenceServerException as error:
        config = f"{error.status()} {error.message().partition(':')[0]}"
    described = server.get_model_metadata(model)
    newest = described["versions"][-1]
    return {
        "client": version("tritonclient"),
        "extensions": server.get_server_metadata()["extensions"],
        "live": server.is_server_live(),
        "ready": server.is_server_ready(),
        "model_ready": server.is_model_ready(model) and server.is_model_ready(model, newest),
        "no_model_ready": server.is_model_ready("nothing"),
        "versions": described["versions"],
        "config": config,
    }


def tensor(image: np.ndarray, is_binary: bool) -> InferInput:
    name = "UINT8" if image.dtype == np.uint8 else "FP32"
    asked = InferInput("image", list(image.shape), name)
    asked.set_data_from_numpy(image, binary_data=is_binary)
    return asked


def one(
    server: InferenceServerClient, model: str, image: np.ndarray, sent: bool, answered: bool
) -> np.ndarray:
    output = InferRequestedOutput("probabilities", binary_data=answered)
    result = server.infer(
        model, [tensor(image, sent)], outputs=[output], request_id="7", model_version="1"
    )
    said = result.get_response()
    assert (said["id"], said["model_name"], said["model_version"]) == ("7", model, "1")
    assert ("data" in said["outputs"][0]) != answered
    return result.as_numpy("probabilities")


def ask_each(server: InferenceServerClient, model: str, images: list, *form: bool) -> list:
    return [one(server, model, image, *form) for image in images]


def usual(server: InferenceServerClient, model: str, image: np.ndarray) -> np.ndarray:
    """With nothing but what has to be said."""
    return server.infer(model, [tensor(image, True)]).as_numpy("probabilities")


def at_once(server: InferenceServerClient, model: str, images: list) -> list:
    asked = [server.async_infer(model, [tensor(image, True)]) for image in images]
    return [one.get_result().as_numpy("probabilities") for one in asked]


def rate(ask: Callable[[], object], seconds: str) -> float:
    """Answers per second, of one caller."""
    began_s = time.perf_counter()
    answers = 0
    while time.perf_counter() < began_s + float(seconds):
        ask()
        answers += 1
    return answers / (time.perf_counter() - began_s)


if __name__ == "__main__":
    main()
