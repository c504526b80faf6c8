"""Rules of the house style that a machine can check."""

from __future__ import annotations

import ast
import re

import pytest
from source_tree import ROOT, Source, sources

MAX_LINES = 600
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "base_utils"}
# Never for the process on the device: client, node, peer, site.
FORBIDDEN_WORDS = re.compile(r"(?<![a-z])(client|node|peer|site)s?(?![a-z])", re.IGNORECASE)

# Where an exception that nobody foresaw is turned into something, each with its reason.
EXCEPT_EXCEPTION = {
    "fedfleet/rpc/status.py": 2,  # the interceptor: into INTERNAL, for both shapes of call
    "services/coordinator/fedfleet_coordinator/__main__.py": 1,
    "services/coordinator/fedfleet_coordinator/runs.py": 1,  # supervisor of a run: it fails alone
    "services/inference-api/fedfleet_inference_api/access.py": 1,  # the interceptor of HTTP
    "services/inference-api/fedfleet_inference_api/follower.py": 1,  # supervisor of its thread
    "services/worker/fedfleet_worker/__main__.py": 1,
}

# The processes' own entries, where the environment is read once and passed down.
READS_ENVIRONMENT = re.compile(r"services/.+/__main__\.py|fedfleet/cli/main\.py")

SOURCES = sources()
ids = [source.path for source in SOURCES]


def nodes(source: Source, kind: type[ast.AST]) -> list[ast.AST]:
    return [node for node in ast.walk(source.tree) if isinstance(node, kind)]


def caught(handler: ast.AST) -> str:
    assert isinstance(handler, ast.ExceptHandler)
    return "" if handler.type is None else ast.unparse(handler.type)


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_module_is_short_and_says_why_it_exists(source: Source) -> None:
    assert source.text.count("\n") <= MAX_LINES
    assert ast.get_docstring(source.tree)


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_module_is_named_for_what_it_holds(source: Source) -> None:
    for part in source.path.removesuffix(".py").split("/"):
        assert part.strip("_") not in FORBIDDEN_NAMES


def test_every_init_holds_only_its_docstring() -> None:
    for source in SOURCES:
        if source.path.endswith("/__init__.py"):
            assert len(source.tree.body) == 1, source.path
            assert ast.get_docstring(source.tree), source.path


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {(ROOT / source.path).parent for source in SOURCES}
    assert [str(f) for f in folders if not (f / "__init__.py").exists()] == []


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_environment_is_read_only_where_a_process_begins(source: Source) -> None:
    read = [
        node
        for node in nodes(source, ast.Attribute)
        if ast.unparse(node) in ("os.environ", "os.getenv", "os.putenv", "os.environb")
    ]
    named = [one for one in source.imports() if one.module in ("os.environ", "os.getenv")]
    if not READS_ENVIRONMENT.fullmatch(source.path):
        assert not read
        assert not named


def test_every_exception_is_caught_only_in_the_named_files() -> None:
    found = {
        source.path: count
        for source in SOURCES
        if (
            count := sum(
                caught(handler) in ("", "Exception") for handler in nodes(source, ast.ExceptHandler)
            )
        )
    }
    assert found == EXCEPT_EXCEPTION


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_base_exception_is_caught_only_to_clean_up_and_raise_again(source: Source) -> None:
    for handler in nodes(source, ast.ExceptHandler):
        assert isinstance(handler, ast.ExceptHandler)
        if "BaseException" in caught(handler) or "CancelledError" in caught(handler):
            last = handler.body[-1]
            assert isinstance(last, ast.Raise), f"{source.path}:{handler.lineno}"


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_nothing_is_unpickled_or_evaluated(source: Source) -> None:
    imported = {one.module.split(".")[0] for one in source.imports()}
    assert not imported & {
        "pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "marshal",
        "shelve",
        "joblib",
    }
    calls = {ast.unparse(node.func) for node in ast.walk(source.tree) if isinstance(node, ast.Call)}
    assert not calls & {"torch.load", "eval", "exec", "np.load", "numpy.load", "torch.save"}


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_comments_are_ascii_and_todos_carry_an_issue(source: Source) -> None:
    assert source.text.isascii()
    for todo in re.findall(r"(?:TODO|FIXME|XXX).*", source.text):
        assert re.search(r"#\d+", todo), todo


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_lint_and_type_suppressions_name_their_code(source: Source) -> None:
    for comment in re.findall(r"# (?:type: ignore|noqa)[^\n]*", source.text):
        assert re.match(r"# (type: ignore\[[\w, -]+\]|noqa: [A-Z]+\d+)", comment), comment


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_a_worker_is_called_a_worker(source: Source) -> None:
    """In the names of classes, functions and arguments; a library's names are its own."""
    names = [
        *(n.name for n in ast.walk(source.tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))),
        *(n.arg for n in ast.walk(source.tree) if isinstance(n, ast.arg)),
    ]
    for name in names:
        words = re.sub(r"(?<!^)(?=[A-Z])", "_", name)
        if name != "ControlClient":  # an operator's program; no worker
            assert not FORBIDDEN_WORDS.search(words.replace("_", " ")), name


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_no_task_is_started_without_an_owner(source: Source) -> None:
    """Style, section 7: a task whose result nobody holds is lost, and so is its error."""
    for node in nodes(source, ast.Expr):
        assert isinstance(node, ast.Expr)
        if isinstance(node.value, ast.Call):
            name = ast.unparse(node.value.func)
            assert not name.endswith(("create_task", "ensure_future")), f"{source.path}"
