"""Rules of the house style that a machine can check. Each test lists what breaks its rule."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from typing import TypeVar

from source_tree import ROOT, Source, sources

N = TypeVar("N", bound=ast.AST)

MAX_LINES = 600
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "engine_spec"}
# Never for the process on a device. A client elsewhere is a program that calls a service.
FORBIDDEN_WORDS = {"node", "peer", "site", "nodes", "peers", "sites"}
CLIENT_BOXES = {"cli", "rpc", "obs", "fedfleet_inference_api"}

# Where an exception that nobody foresaw is turned into something, each with its reason.
EXCEPT_EXCEPTION = {
    "fedfleet/rpc/status.py": 2,  # the interceptor: into INTERNAL, for both shapes of call
    "services/coordinator/fedfleet_coordinator/__main__.py": 1,
    # The supervisor of a network that is not the run's, or a plug-in's: its version fails alone.
    "services/coordinator/fedfleet_coordinator/promoting.py": 1,
    "services/coordinator/fedfleet_coordinator/runs.py": 2,  # supervisor of a run: it fails alone
    "services/inference-api/fedfleet_inference_api/access.py": 1,  # the interceptor of HTTP
    # The supervisor of an experiment with a plug-in's module: plain torch serves it instead.
    "services/inference-api/fedfleet_inference_api/backends/choice.py": 1,
    "services/inference-api/fedfleet_inference_api/follower.py": 1,  # supervisor of its thread
    # The supervisor of a load: whatever a version raises there is that version's trouble.
    "services/inference-api/fedfleet_inference_api/service.py": 1,
    "services/worker/fedfleet_worker/__main__.py": 1,
    "services/worker/fedfleet_worker/workbench.py": 1,  # supervisor of plug-ins: a job fails alone
    # Supervisors: one camera's trouble is not that of the others, nor theirs that of all.
    "services/inference-api/fedfleet_inference_api/cameras/fleet.py": 2,
    "services/inference-api/fedfleet_inference_api/cameras/watcher.py": 1,
}

# The processes' own entries, where the environment is read once and passed down.
READS_ENVIRONMENT = re.compile(r"services/.+/__main__\.py|fedfleet/cli/main\.py")
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.putenv"}

UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
UNSAFE_CALLS = {"torch.load", "torch.save", "np.load", "numpy.load", "eval", "exec"}


def every(kind: type[N]) -> Iterator[tuple[Source, N]]:
    """Each syntax node of a kind in our code, with its file."""
    for source in sources():
        for node in ast.walk(source.tree):
            if isinstance(node, kind):
                yield source, node


def comments() -> Iterator[tuple[str, str]]:
    """Each comment with its place."""
    for source in sources():
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
            if token.type == tokenize.COMMENT:
                yield f"{source.path}:{token.start[0]}", token.string


def caught(handler: ast.ExceptHandler) -> str:
    return "" if handler.type is None else ast.unparse(handler.type)


def test_modules_are_short() -> None:
    assert [s.path for s in sources() if s.text.count("\n") > MAX_LINES] == []


def test_modules_say_why_they_exist() -> None:
    assert [s.path for s in sources() if not ast.get_docstring(s.tree)] == []


def test_modules_are_named_for_what_they_hold() -> None:
    words = {s.path: set(s.path.removesuffix(".py").split("/")) for s in sources()}
    assert [path for path, parts in words.items() if parts & FORBIDDEN_NAMES] == []


def test_every_init_holds_only_its_docstring() -> None:
    inits = [s for s in sources() if s.path.endswith("/__init__.py")]
    assert inits
    assert [s.path for s in inits if len(s.tree.body) != 1] == []


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {(ROOT / s.path).parent for s in sources()}
    assert [str(f) for f in folders if not (f / "__init__.py").exists()] == []


def test_environment_is_read_only_where_a_process_begins() -> None:
    readers = {s.path for s, node in every(ast.Attribute) if ast.unparse(node) in ENVIRONMENT}
    readers |= {
        s.path
        for s, node in every(ast.ImportFrom)
        if node.module == "os" and {f"os.{a.name}" for a in node.names} & ENVIRONMENT
    }
    assert [path for path in readers if not READS_ENVIRONMENT.fullmatch(path)] == []


def test_every_exception_is_caught_only_in_the_named_files() -> None:
    found = Counter(
        source.path
        for source, handler in every(ast.ExceptHandler)
        if re.search(r"^$|\bException\b", caught(handler))
    )
    assert found == EXCEPT_EXCEPTION


def test_base_exception_is_caught_only_to_clean_up_and_raise_again() -> None:
    wrong = [
        f"{source.path}:{handler.lineno}"
        for source, handler in every(ast.ExceptHandler)
        if re.search(r"BaseException|CancelledError", caught(handler))
        and not isinstance(handler.body[-1], ast.Raise)
    ]
    assert wrong == []


def test_nothing_is_unpickled_or_evaluated() -> None:
    wrong = [
        f"{source.path}:{one.line} imports {one.module}"
        for source in sources()
        for one in source.imports()
        if one.module.split(".")[0] in UNPICKLERS
    ]
    wrong += [
        f"{source.path}:{call.lineno} calls {ast.unparse(call.func)}"
        for source, call in every(ast.Call)
        if ast.unparse(call.func) in UNSAFE_CALLS
    ]
    assert wrong == []


def test_no_task_is_started_without_an_owner() -> None:
    """A task whose result nobody holds is lost, and its error with it (style, section 7)."""
    wrong = [
        f"{source.path}:{node.lineno}"
        for source, node in every(ast.Expr)
        if isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func).endswith(("create_task", "ensure_future"))
    ]
    assert wrong == []


def test_comments_are_ascii() -> None:
    assert [place for place, text in comments() if not text.isascii()] == []


def test_todos_carry_an_issue() -> None:
    todos = [(p, text) for p, text in comments() if re.search("TODO|FIXME|XXX", text)]
    assert [place for place, text in todos if not re.search(r"#\d+", text)] == []


def test_suppressions_name_what_they_suppress() -> None:
    marks = [(p, t) for p, t in comments() if re.search(r"type: ignore|noqa|pragma", t)]
    named = re.compile(r"# (type: ignore\[[\w, -]+\]|noqa: [A-Z]+\d+)")
    assert [place for place, text in marks if not named.match(text)] == []


def test_a_worker_is_called_a_worker() -> None:
    names = [
        *((source, node.name) for source, node in every(ast.ClassDef)),
        *((source, node.name) for source, node in every(ast.FunctionDef)),
        *((source, node.name) for source, node in every(ast.AsyncFunctionDef)),
        *((source, node.arg) for source, node in every(ast.arg)),
    ]
    wrong = []
    for source, name in names:
        words = set(re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower().split("_"))
        client = {"client", "clients"} if source.box not in CLIENT_BOXES else set()
        if words & (FORBIDDEN_WORDS | client):
            wrong.append(f"{source.path}: {name}")
    assert wrong == []
