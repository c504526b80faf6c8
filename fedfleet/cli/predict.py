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
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="JPEG, PNG, WEBP, BMP or GIF.")],
    k: Annotated[
        Optional[int],  # noqa: UP045  # Typer evaluates it, on Python 3.10 too
        typer.Option("-k", min=1, help="How many classes to name. Else five, or all there are."),
    ] = None,
    inference: Inference = None,
    as_json: Json = False,
) -> None:
    """Ask the inference service about an image."""
    client = inference_of(context, inference)
    answer = client.predict(_read(image), k)
    if as_json:
        write_json(answer)
    else:
        print_answer(console(), answer)


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
