"""``fedfleet cameras``: list, add, remove, snapshot, demo; by the inference service's REST API."""

from __future__ import annotations

import pkgutil
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Optional
from urllib.parse import quote

import typer

from fedfleet.cli.output import console, make_table, plain, size, write_json
from fedfleet.cli.progress import working
from fedfleet.cli.session import inference_of
from fedfleet.cli.settings import Inference, Json
from fedfleet.errors import DataMissing, FedFleetError, NotInstalled, SettingInvalid

MAX_PASSWORD_BYTES = 4096
_PASSWORD = re.compile(r"[^/]*//[^/@]*:[^/]*@")
MAX_PICTURE_BYTES = 64 << 20
FILM, SETTINGS = "shapes.mp4", "cameras.toml"
# Resolved only when a film is asked for: it needs PyAV, which is in an extra.
_WRITE = "fedfleet.cli.demo_film:write_film"
_CAMERAS = f"""\
# Written by `fedfleet cameras demo`; named by FEDFLEET_CAMERAS. docs/cameras.md has all fields.
[[camera]]
name = "film"
url = "file:{FILM}"
"""

Name = Annotated[str, typer.Argument(metavar="NAME", help="The camera's name.")]


def list_cameras(
    context: typer.Context, inference: Inference = None, as_json: Json = False
) -> None:
    """List the cameras and how they are."""
    answer = inference_of(context, inference).document("GET", "cameras")
    if as_json:
        write_json(answer)
        return
    out = console()
    try:
        columns = ("camera", "state", "why", "next try", "address", "picture", "frames/s", "model")
        table = make_table("", (*columns, "after a restart"), right=("frames/s",))
        for camera in answer["cameras"]:
            table.add_row(*_row(camera))
        fault = plain(answer["fault"])
    except (KeyError, TypeError, ValueError) as error:
        raise FedFleetError("the inference service answered with something else") from error
    out.print(table)
    if fault:
        out.print(f"cameras that were added are missing: {fault}")
    if not answer["cameras"]:
        out.print("none yet: `fedfleet cameras add`, or a file named by FEDFLEET_CAMERAS")


def add(
    context: typer.Context,
    name: Name,
    url: Annotated[
        str,
        typer.Argument(metavar="URL", help="Where it is: rtsp:, rtsps:, http: (MJPEG) or https:."),
    ],
    # Optional[...]: Typer evaluates these, on Python 3.10 too.
    user: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="USER", help="Who asks the camera."),
    ] = None,
    password_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="FILE",
            help="A file with the password: on the command line others could read it.",
        ),
    ] = None,
    fps: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(metavar="X", help="Frames per second that are looked at, at most. Else 5."),
    ] = None,
    score: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(metavar="X", min=0.0, max=1.0, help="How sure a thing has to be. Else 0.5."),
    ] = None,
    inference: Inference = None,
    as_json: Json = False,
) -> None:
    """Add a camera where FEDFLEET_CAMERA_NETWORKS allows one."""
    if _PASSWORD.match(url):
        raise SettingInvalid(
            "URL: it holds a password, which others can read on the command line: leave it out, "
            "and name --user and --password-file"
        )
    fields = {"name": name, "url": url, "user": user, "fps": fps, "score": score}
    if password_file is not None:
        fields["password"] = _password(password_file)
    wanted = {field: value for field, value in fields.items() if value is not None}
    camera = inference_of(context, inference).document("POST", "cameras", wanted)
    if as_json:
        write_json(camera)
        return
    lasting = "kept" if camera.get("kept") else "forgotten when the service stops"
    console().print(f"camera {plain(name)} at {plain(str(camera.get('address')))}, {lasting}")


def remove(
    context: typer.Context, name: Name, inference: Inference = None, as_json: Json = False
) -> None:
    """Remove a camera; its viewers' streams end."""
    client = inference_of(context, inference)
    configured = bool(client.document("GET", _path(name)).get("configured"))
    client.call("DELETE", _path(name))
    if as_json:
        write_json({"removed": name, "configured": configured})
        return
    back = "; the service's own file names it: it is back after a restart" if configured else ""
    console().print(f"camera {plain(name)} is removed{back}")


def snapshot(
    context: typer.Context,
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the JPEG goes.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="As the camera gave it, with nothing drawn on it.")
    ] = False,
    inference: Inference = None,
    as_json: Json = False,
) -> None:
    """Write the picture of this moment, with what is seen on it."""
    query = "?raw=1" if raw else ""
    path = f"{_path(name)}/snapshot.jpg{query}"
    picture = inference_of(context, inference).call("GET", path, most=MAX_PICTURE_BYTES)
    try:
        out.expanduser().write_bytes(picture)
    except OSError as error:
        raise SettingInvalid(f"--out {out}: {error.strerror}") from error
    if as_json:
        write_json({"camera": name, "file": str(out), "bytes": len(picture)})
    else:
        console().print(f"{out}: camera {plain(name)}, {size(len(picture))}")


def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the film and the settings go.")
    ],
    seconds: Annotated[
        int, typer.Option(metavar="N", min=1, max=600, help="How long the film is.")
    ] = 20,
) -> None:
    """Write a film of moving shapes, and a cameras.toml that names it."""
    target = folder.expanduser()
    try:
        write = pkgutil.resolve_name(_WRITE)
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise NotInstalled.of_extra("films are encoded by PyAV, which", "inference") from error
    settings = target / SETTINGS
    try:
        target.mkdir(parents=True, exist_ok=True)
        if settings.exists() and settings.read_text(encoding="utf-8") != _CAMERAS:
            raise SettingInvalid(f"{settings}: is there already, and not from here: left as it is")
        with working(console(), f"filming {seconds} s"):
            write(target / FILM, seconds=seconds)
        settings.write_text(_CAMERAS, encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"{folder}: {error}") from error
    console().print(f"{folder / FILM}: {seconds} s of moving shapes; {folder / SETTINGS} names it")
    console().print(
        f"try it: FEDFLEET_CAMERAS={folder / SETTINGS} fedfleet up --recipe shapes", soft_wrap=True
    )


def _row(camera: dict[str, Any]) -> tuple[str, ...]:
    status, model = camera["status"], camera["model"]
    picture = f"{status['width']}x{status['height']}" if status["width"] else "-"
    retry_at = status["retry_at_s"]
    return (
        plain(camera["name"]),
        plain(status["state"]),
        plain(status["code"]) or "-",
        f"{datetime.fromtimestamp(retry_at, timezone.utc):%H:%M:%S} UTC" if retry_at else "-",
        plain(camera["address"]),
        picture,
        f"{status['fps']:.1f}" if status["fps"] else "-",
        f"{plain(model['name'])} {model['version']}" if model else "-",
        "there" if camera["kept"] else "gone",
    )


def _path(name: str) -> str:
    return f"cameras/{quote(name, safe='')}"


def _password(path: Path) -> str:
    """The first line of a file; raises DataMissing, SettingInvalid."""
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(MAX_PASSWORD_BYTES)
        return data.decode().partition("\n")[0].rstrip("\r")
    except OSError as error:
        raise DataMissing(f"--password-file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingInvalid(f"--password-file {path}: is not UTF-8 text") from error
