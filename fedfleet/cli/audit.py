"""``fedfleet audit``: show, verify."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Optional

import typer

from fedfleet.cli.audit_log import (
    Log,
    Noted,
    check,
    file_log,
    newest_number,
    pages,
    record_of,
)
from fedfleet.cli.documents import audit_document
from fedfleet.cli.output import console, local_time, make_table, plain, write_json
from fedfleet.cli.session import connect
from fedfleet.cli.settings import Coordinator
from fedfleet.errors import SettingInvalid
from fedfleet.rpc.control import ControlClient
from fedfleet.store.audit import AuditRecord
from fedfleet.store.open import open_store

LAST = 20


def show(
    context: typer.Context,
    last: Annotated[
        Optional[int],  # noqa: UP045  # Typer evaluates it, on Python 3.10 too
        typer.Option(min=1, metavar="N", help="Only the newest. Else 20, with --json all."),
    ] = None,
    coordinator: Coordinator = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document per record and line.")
    ] = False,
) -> None:
    """Show who did what."""
    wanted = last or (None if as_json else LAST)
    with connect(context, coordinator) as client:
        log = _log_of(client)
        after = max(0, newest_number(log) - wanted) if wanted else 0
        if as_json:
            for page in pages(log, after):
                for record in page:
                    write_json(audit_document(record), indent=None)
            return
        records = [record for page in pages(log, after) for record in page]
    table = make_table("", ("record", "when", "who", "did", "to", "with"), right=("record",))
    for record in records:
        table.add_row(*_row(record))
    console().print(table if records else "Nothing was recorded yet.")


def verify(
    context: typer.Context,
    after: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1, metavar="NUMBER", help="Only from a record on that was noted, with its --hash."
        ),
    ] = None,
    noted_hash: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--hash", metavar="HASH", help="The noted record's hash."),
    ] = None,
    store: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="URL", help="Read this store, as where the coordinator is down."),
    ] = None,
    file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Read what `audit show --json` has printed."),
    ] = None,
    coordinator: Coordinator = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of sentences.")
    ] = False,
) -> None:
    """Check that no record was removed or altered."""
    noted = _noted(after, noted_hash)
    if store is not None and file is not None:
        raise SettingInvalid("--store and --file: one of them")
    with _log(context, coordinator, store, file) as log:
        whole = check(log, noted, is_part=file is not None)
    head = whole.head
    if as_json:
        known = {"number": head.number, "hash": head.hash} if head else None
        write_json({"records": whole.count, "head": known})
        return
    out = console()
    if head is None:
        out.print("The audit log is empty.")
        return
    records = "1 record is" if whole.count == 1 else f"{whole.count} records are"
    out.print(f"{records} whole, up to record {head.number}")
    out.print(f"head: number {head.number}, hash {head.hash}", soft_wrap=True)
    out.print("Note both elsewhere: records cut off at the end leave no other trace. Later:")
    out.print(
        f"fedfleet audit verify --after {head.number} --hash {head.hash}",
        soft_wrap=True,
    )


@contextmanager
def _log(
    context: typer.Context, coordinator: str | None, store: str | None, file: Path | None
) -> Iterator[Log]:
    """The log that the options name."""
    if file is not None:
        yield file_log(file.expanduser())
    elif store is not None:
        scheme, _, path = store.partition(":")
        # Opening would make one, and the log of that would be whole.
        if scheme == "sqlite" and not (Path(path).expanduser() / "fedfleet.db").is_file():
            raise SettingInvalid(f"--store {store!r}: there is no store in that folder")
        with open_store(store) as opened:
            yield opened.audit.records
    else:
        with connect(context, coordinator) as client:
            yield _log_of(client)


def _log_of(client: ControlClient) -> Log:
    def log(after_number: int, limit: int) -> list[AuditRecord]:
        return [record_of(message) for message in client.list_audit(after_number, limit)]

    return log


def _noted(after: int | None, noted_hash: str | None) -> Noted | None:
    if after is None and noted_hash is None:
        return None
    if after is None or noted_hash is None:
        raise SettingInvalid("--after and --hash: both, as `fedfleet audit verify` printed them")
    return Noted(after, noted_hash.strip().lower())


def _row(record: AuditRecord) -> tuple[str, ...]:
    words = (
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in record.fields.items()
    )
    return (
        str(record.number),
        local_time(record.at_s),
        plain(record.actor),
        plain(record.action),
        plain(record.object),
        plain(" ".join(words)),
    )
