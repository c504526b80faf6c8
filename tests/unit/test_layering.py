"""Who may import whom: design.md, section 2, as a test. A new exception is a line in a list here,
with its reason, and is for the reviewer to see.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter

import pytest
from source_tree import SERVICES, Import, Source, sources

# From the top down; an import goes to a lower line. Finer than design.md at the bottom: types
# raises an error of errors.py, which imports nothing.
LEVELS = (
    {"cli", "sim", *SERVICES},
    {"reports"},
    {"rpc", "rounds", "store"},
    {"training", "wire"},
    {"algorithms", "aggregation", "privacy"},
    {"codecs", "models", "data", "obs", "identity"},
    {"v1", "env", "plugins", "tables"},
    {"types"},
    {"errors"},
)
LEVEL = {box: level for level, boxes in enumerate(LEVELS) for box in boxes}

# Imports between boxes of one line.
SIBLINGS = {
    # An algorithm's coordinator half takes what the aggregation made.
    ("algorithms", "aggregation"),
    # ``fedfleet simulate`` drives the simulator.
    ("fedfleet.cli.simulate", "fedfleet.sim.driver"),
    ("fedfleet.cli.simulate", "fedfleet.sim.carried_tags"),
    ("fedfleet.cli.simulate", "fedfleet.sim.devices"),
    ("fedfleet.cli.simulate", "fedfleet.sim.engines"),
    ("fedfleet.cli.simulate", "fedfleet.sim.outcome"),
    ("fedfleet.cli.simulate", "fedfleet.sim.traces"),
    # torchvision cannot be imported beside a CPU torch without it, also where CIFAR is fetched.
    ("fedfleet.data.cifar_download", "fedfleet.models.torchvision_ops"),
}

# Imports inside functions, each to keep a command or a recipe from waiting for it.
LAZY = {
    # torch, which --help and a wrong recipe need not wait for.
    ("fedfleet.cli.simulate", "fedfleet.sim.driver"),
    ("fedfleet.sim.array_files", "torch"),
    # redis, which only the services have installed.
    ("fedfleet.store.open", "fedfleet.store.redis"),
}

# Who alone may import a library.
ONLY_IN = {
    "grpc": {"rpc", *SERVICES},
    "grpc_health": {"rpc"},
    "grpc_reflection": {"rpc"},
    "redis": {"store"},
    "cryptography": {"identity"},
    "ray": {"fedfleet.sim.ray"},
    "matplotlib": {"reports"},
    "prometheus_client": {"obs", *(f"{service}.metrics" for service in SERVICES)},
    "typer": {"cli"},
    "rich": {"cli"},
    "fastapi": {"fedfleet_inference_api"},
    "uvicorn": {"fedfleet_inference_api"},
    "starlette": {"fedfleet_inference_api"},
    "sqlite3": {"store"},
    # In the process of a camera alone: its service never loads FFmpeg.
    "av": {
        *(
            f"fedfleet_inference_api.cameras.{name}"
            for name in ("child", "source", "decoding", "faults")
        ),
        "fedfleet.cli.demo_film",  # which `fedfleet cameras demo` finds by name
    },
    "paho": {"fedfleet_inference_api.cameras.mqtt"},
    "onnxruntime": {"fedfleet_inference_api"},
    "torchmetrics": {"fedfleet.training.average_precision"},
    "google": {"wire"},
}

TORCH = {"torch", "torchvision"}
TORCH_FREE = {
    *("rounds", "wire", "store", "rpc", "obs", "codecs", "aggregation", "data"),
    *("types", "errors", "env", "plugins", "tables", "reports", "cli", "identity"),
}
# Named by hand: they import torch, and are imported by nobody who did not ask for it.
WITH_TORCH = {"fedfleet.data.cifar_download"}

OURS = [source for source in sources() if source.module != "fedfleet"]


def own_imports(source: Source) -> list[Import]:
    return [one for one in source.imports() if one.module.startswith(("fedfleet.", "fedfleet_"))]


def box_of(module: str) -> str:
    first, *rest = module.split(".")
    return rest[0] if first == "fedfleet" and rest else first


def allowed(source: Source, module: str) -> bool:
    target = box_of(module)
    return (
        target == source.box
        or LEVEL[target] > LEVEL[source.box]
        or bool(SIBLINGS & {(source.box, target), (source.module, module)})
    )


def test_every_box_has_a_level() -> None:
    assert {source.box for source in OURS} <= LEVEL.keys()


def test_imports_go_down() -> None:
    wrong = [
        f"{source.path}:{one.line} imports {one.module}"
        for source in OURS
        for one in own_imports(source)
        if not allowed(source, one.module)
    ]
    assert not wrong


def test_services_import_neither_each_other_nor_the_simulator() -> None:
    for source in OURS:
        for one in own_imports(source):
            target = box_of(one.module)
            if source.package in SERVICES:
                assert target == source.package or target not in {*SERVICES, "sim", "cli"}, source
            else:
                assert target not in SERVICES, source


def test_no_sibling_is_allowed_that_nobody_imports() -> None:
    pairs = {
        pair
        for source in OURS
        for one in own_imports(source)
        for pair in ((source.box, box_of(one.module)), (source.module, one.module))
    }
    assert pairs >= SIBLINGS


def test_modules_and_boxes_have_no_cycles() -> None:
    graphs: list[dict[str, set[str]]] = [defaultdict(set), defaultdict(set)]
    for source in OURS:
        for one in own_imports(source):
            if one.runtime:
                graphs[0][source.module].add(one.module)
            if box_of(one.module) != source.box:
                graphs[1][source.box].add(box_of(one.module))
    for graph in graphs:
        TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_no_import_inside_a_function_but_the_named_ones() -> None:
    inside = {
        (source.module, one.module)
        for source in OURS
        for one in source.imports()
        if one.inside_function
    }
    assert inside == LAZY


@pytest.mark.parametrize("library", ONLY_IN)
def test_library_is_imported_only_where_it_belongs(library: str) -> None:
    wrong = [
        f"{source.path}:{one.line}"
        for source in OURS
        for one in source.imports()
        if one.module.split(".")[0] == library
        and not {source.box, source.module} & ONLY_IN[library]
    ]
    assert not wrong


def test_torch_is_not_named_in_the_boxes_that_live_without_it() -> None:
    wrong = {
        source.module
        for source in OURS
        if source.box in TORCH_FREE
        for one in source.imports()
        if one.module.split(".")[0] in TORCH
    }
    assert wrong == WITH_TORCH


def test_boxes_without_torch_do_not_load_it_through_others() -> None:
    names = sorted(
        source.module
        for source in OURS
        if source.box in TORCH_FREE and source.module not in WITH_TORCH
    )
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(name)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_round_machine_knows_neither_clock_nor_chance_nor_the_outside() -> None:
    outside = {"time", "datetime", "random", "secrets", "socket", "os", "pathlib", "asyncio", "io"}
    outside |= {"threading", "logging", "subprocess", "sqlite3"}
    for source in OURS:
        if source.box == "rounds":
            assert not {one.module.split(".")[0] for one in source.imports()} & outside, source.path
