"""``fedfleet ca``: show, server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from fedfleet.cli.output import console, local_time, make_table, plain, write_json
from fedfleet.cli.settings import Json, config_of
from fedfleet.identity.authority import ROOT_FILE, Authority
from fedfleet.identity.credentials import FILE, save_credentials
from fedfleet.identity.files import write_public
from fedfleet.identity.inspection import (
    FILES,
    CertificateView,
    authority_certificates,
    view_of,
)
from fedfleet.identity.tokens import PIN_DIGITS

# Where a coordinator with the default store has its authority.
DEFAULT_FOLDER = Path("state", "ca")
DAYS = 90
MOST_DAYS = 825

CaDir = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        metavar="FOLDER", help="The authority's folder. Else FEDFLEET_CA_DIR, else state/ca."
    ),
]


def show(context: typer.Context, ca_dir: CaDir = None, as_json: Json = False) -> None:
    """Show the certificates of the fleet's authority, to compare them."""
    views = authority_certificates(_folder(context, ca_dir))
    pin = views[FILES.index("enrolment.pem")].fingerprint[:PIN_DIGITS]
    if as_json:
        write_json({"certificates": [_document(view) for view in views], "pin": pin})
        return
    out = console()
    table = make_table("", ("file", "subject", "ends", "SHA-256"))
    for view in views:
        table.add_row(view.file, plain(view.subject), local_time(view.ends_at_s), view.fingerprint)
    out.print(table)
    out.print(f"Tokens carry the pin {pin}: the first digits of {FILES[-1]}.")


def server(
    context: typer.Context,
    name: Annotated[
        list[str],
        typer.Option(metavar="HOST", help="Host name or IP address; may be given several times."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go.")],
    days: Annotated[
        int, typer.Option(min=1, max=MOST_DAYS, help="How long the certificate is valid.")
    ] = DAYS,
    ca_dir: CaDir = None,
    as_json: Json = False,
) -> None:
    """Issue a certificate for a web server, such as the inference service."""
    folder = _folder(context, ca_dir)
    authority_certificates(folder)  # or there is none: only a coordinator's start makes one
    authority = Authority.open(folder)
    credentials = authority.issue_server(name, time.time(), days * 86400.0)
    target = out.expanduser()
    save_credentials(target, credentials)
    write_public(target / ROOT_FILE, credentials.root)
    view = view_of(FILE, credentials.chain)
    if as_json:
        write_json({**_document(view), "file": str(target / FILE), "root": str(target / ROOT_FILE)})
        return
    console().print(
        f"{target / FILE}: key and certificate for {', '.join(view.names)}, "
        f"until {local_time(view.ends_at_s)}; name it as the one and as the other\n"
        f"{target / ROOT_FILE}: what callers have to trust, as in curl --cacert"
    )


def _folder(context: typer.Context, named: Path | None) -> Path:
    """The authority's folder."""
    return named.expanduser() if named else config_of(context).ca_dir or DEFAULT_FOLDER


def _document(view: CertificateView) -> dict[str, Any]:
    """A certificate as JSON. Any: JSON's values."""
    return {
        "file": view.file,
        "subject": view.subject,
        "names": list(view.names),
        "sha256": view.fingerprint,
        "starts_at_s": view.starts_at_s,
        "ends_at_s": view.ends_at_s,
    }
