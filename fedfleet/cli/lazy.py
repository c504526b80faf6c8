"""A command group that knows its commands by name and imports one only when it is called.

What ``--help`` lists comes from a table, so that it starts in a moment on a slow device; a test
holds the table's texts to the docstrings.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


@dataclass(frozen=True)
class Leaf:
    """A command that is a function.

    Args:
        target: ``module:function``.
        help: the first line of the function's docstring.
    """

    target: str
    help: str


@dataclass(frozen=True)
class Branch:
    """A command with commands below it."""

    help: str
    commands: Mapping[str, Leaf] = field(default_factory=dict)


class _Command(TyperCommand):
    """A command whose help takes no flag for an option with a value."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _told(super().get_params(ctx))


class LazyGroup(TyperGroup):
    """A group over a table; subclasses set the table.

    The annotations are Any where Typer's classes are Click's in some of its releases and its own
    in others.
    """

    table: Mapping[str, Leaf | Branch] = {}

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        for name, item in self.table.items():
            self.add_command(TyperCommand(name, help=escape(item.help)), name)

    def get_params(self, ctx: Any) -> list[Any]:
        return _told(super().get_params(ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, stub, rest = super().resolve_command(ctx, args)
        return name, load(name, self.table[name]) if name else stub, rest


def load(name: str, item: Leaf | Branch) -> Any:
    """The real command of a table's entry."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    if isinstance(item, Branch):
        app = typer.Typer(
            cls=group_class(item.commands),
            add_completion=False,
            no_args_is_help=True,
            pretty_exceptions_enable=False,
        )
        app.callback(help=item.help)(_nothing)
    else:
        app.command(name, cls=_Command)(pkgutil.resolve_name(item.target))
    command = get_command(app)
    command.name = name
    command.help = escape(command.help or "")
    params: list[Any] = list(command.params)
    for param in params:
        param.help = escape(param.help or "")  # [rounds] is a recipe's table and no markup
    return command


def _told(params: Sequence[Any]) -> list[Any]:
    """Parameters as the help shows them: a flag without the ``<bool>`` that nobody may write."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return list(params)


def group_class(table: Mapping[str, Leaf | Branch]) -> type[LazyGroup]:
    """The class of a group over a table."""
    return type("TableGroup", (LazyGroup,), {"table": table})


def _nothing() -> None:
    """Stand for a group, which does nothing itself."""
