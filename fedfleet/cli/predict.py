"""``fedfleet predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from fedfleet.cli.output import bars, console, make_table, percent, plain, write_json
from fedfleet.cli.session import inference_of
from fedfleet.cli.settings import Inference, Json
from fedfleet.errors import BodyTooLarge, DataMissing, FedFleetError

# The service's own limit is a setting of its; this one keeps a slip of the hand out of memory.
MAX_IMAGE_BYTES = 256 << 20
_SIDES = ("left", "top", "right", "bottom")


def predict(
    context: typer.Context,
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE", help="Files: JPEG, PNG, WEBP, BMP or GIF."),
    ],
    # Optional[...]: Typer evaluates these, on Python 3.10 too.
    k: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "-k", metavar="N", min=1, help="How many classes to name. Else five, or all there are."
        ),
    ] = None,
    score: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            metavar="X", min=0.0, max=1.0, help="The least score of a detector's box. Else 0.4."
        ),
    ] = None,
    version: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(metavar="N", min=1, help="Answer with this version. Else what is served."),
    ] = None,
    alias: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="Answer with the version that this alias names."),
    ] = None,
    inference: Inference = None,
    as_json: Json = False,
) -> None:
    """Ask the inference service about images."""
    client, out = inference_of(context, inference), console()
    several, answers = len(images) > 1, []
    for image in images:
        answer = client.predict(_read(image), k=k, score=score, version=version, alias=alias)
        answers.append({"image": str(image), **answer} if several else answer)
        if several and not as_json:
            out.print(plain(str(image)))
        if not as_json:
            print_answer(out, answer)
    if as_json:
        write_json(answers if several else answers[0])


def print_answer(out: Console, answer: dict[str, Any]) -> None:
    """Print what an answer names, the surest first. Any: it is JSON.

    Raises:
        FedFleetError: the answer is not one of the inference service.
    """
    try:
        model = answer["model"]
        title = f"{plain(model['name'])}, version {model['version']}, round {model['round']}"
        is_detector = answer.get("detections") is not None
        table = _boxes(answer, title) if is_detector else _classes(out, answer, title)
    except (KeyError, TypeError, ValueError) as error:
        raise FedFleetError("the inference service answered with something else") from error
    out.print(table)


def _classes(out: Console, answer: dict[str, Any], title: str) -> Table:
    table = make_table(
        f"Prediction of {title}", ("", "label", "probability", ""), right=("probability",)
    )
    full = bars([1.0], most=1.0, encoding=out.encoding)
    for place, item in enumerate(answer["predictions"], start=1):
        bar = full * round(30 * item["probability"])
        table.add_row(str(place), plain(item["label"]), percent(item["probability"]), bar)
    return table


def _boxes(answer: dict[str, Any], title: str) -> Table:
    """Where something was seen: its sides as shares of the image's."""
    columns = ("", "label", "score", *_SIDES)
    table = make_table(f"Seen by {title}", columns, right=columns[2:])
    for place, item in enumerate(answer["detections"], start=1):
        sides = [percent(item["box"][side]) for side in _SIDES]
        table.add_row(str(place), plain(item["label"]), percent(item["score"]), *sides)
    return table


def _read(path: Path) -> bytes:
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise DataMissing(f"image {str(path)!r} cannot be read: {error.strerror}") from error
    if len(data) > MAX_IMAGE_BYTES:
        raise BodyTooLarge(f"image {str(path)!r}: larger than {MAX_IMAGE_BYTES >> 20} MiB")
    return data
