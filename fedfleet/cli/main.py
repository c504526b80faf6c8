"""The ``fedfleet`` command: finds the command that is meant, and ends with one line on an error."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Annotated

import typer
from typer.main import get_command

from fedfleet.cli.commands import COMMANDS
from fedfleet.cli.lazy import group_class
from fedfleet.errors import FedFleetError, NotInstalled, StoreFull, StoreUnavailable

app = typer.Typer(cls=group_class(COMMANDS), no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"fedfleet {version('fedfleet')}\n")
        raise typer.Exit


@app.callback()
def fedfleet(
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Train one model across a fleet of devices, and serve every better version."""


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments after the program's name; None takes this process's.
        environ: None takes this process's.

    Returns:
        0; 1 after an error in one line on stderr; 2 for a wrong usage; 130 after Ctrl-C.
    """
    logging.getLogger("fedfleet").addHandler(logging.NullHandler())
    # grpc would write about each failed handshake beside the one line that says so.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    with contextlib.suppress(AttributeError):
        # A terminal that cannot show a character shows a question mark.
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        get_command(app).main(
            arguments, prog_name="fedfleet", obj=os.environ if environ is None else environ
        )
    except SystemExit as end:
        return _flushed(end.code if isinstance(end.code, int) else int(end.code is not None))
    except FedFleetError as error:
        _report(error.code, error.message)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fedfleet"):
            raise
        _report(NotInstalled.code, NotInstalled.of_extra(str(error.name), "all").message)
        return 1
    except OSError as error:  # a file that cannot be written; sockets' errors are told above
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cls = StoreFull if is_full else StoreUnavailable
        _report(cls.code, f"{error.filename or 'output'}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return _flushed(0)


def _flushed(status: int) -> int:
    """Write out what is buffered; a reader that went away is no error of ours to trace."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status or 1
    return status


def _report(code: str, message: str) -> None:
    """Write one line, whatever the other side put into its text."""
    line = "".join(char if char.isprintable() else " " for char in message)
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(f"fedfleet: {code}: {line}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
