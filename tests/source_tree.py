"""The source files of the library and the services, parsed, for the tests of the house rules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVICES = ("fedfleet_coordinator", "fedfleet_worker", "fedfleet_inference_api")


@dataclass(frozen=True)
class Import:
    """One imported module. ``runtime`` is False under TYPE_CHECKING."""

    module: str
    line: int
    inside_function: bool
    runtime: bool


@dataclass(frozen=True)
class Source:
    """One file of our own (generated stubs are not)."""

    path: str  # from the repository's root
    module: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return _parse(self.path, self.text)

    @property
    def package(self) -> str:
        return self.module.split(".")[0]

    @property
    def box(self) -> str:
        """The box of design.md: a folder or file of fedfleet, or a service's name."""
        return self.module.split(".")[1] if self.package == "fedfleet" else self.package

    def imports(self) -> Iterator[Import]:
        yield from _imports(self.tree, inside_function=False, runtime=True)


@cache
def _parse(path: str, text: str) -> ast.Module:
    return ast.parse(text, path)


def _imports(node: ast.AST, *, inside_function: bool, runtime: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, inside_function, runtime)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative imports are banned"
            assert child.module is not None
            for alias in child.names:
                module = f"{child.module}.{alias.name}"
                known = module if module in modules() else child.module
                yield Import(known, child.lineno, inside_function, runtime)
        else:
            deeper = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from _imports(
                child,
                inside_function=inside_function or deeper,
                runtime=runtime and not typing,
            )


@cache
def modules() -> frozenset[str]:
    """Names of our own modules and of the generated ones."""
    stubs = (ROOT / "fedfleet" / "v1").glob("*.py")
    return frozenset(source.module for source in sources()) | {
        f"fedfleet.v1.{path.stem}" for path in stubs
    }


@cache
def sources() -> tuple[Source, ...]:
    """Every file of our own, in order."""
    bases = [(ROOT, "fedfleet")]
    bases += [(folder.parent, folder.name) for folder in (ROOT / "services").glob("*/fedfleet_*")]
    found = []
    for base, package in bases:
        for path in sorted((base / package).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            if parts[:2] == ("fedfleet", "v1"):
                continue
            name = ".".join(part for part in parts if part != "__init__")
            text = path.read_text(encoding="utf-8")
            found.append(Source(path.relative_to(ROOT).as_posix(), name, text))
    return tuple(found)
