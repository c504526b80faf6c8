"""What the documents say exists: links, files, functions, commands, variables, recipes."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from fedfleet.cli.commands import COMMANDS
from fedfleet.cli.lazy import Branch
from fedfleet.cli.settings import CliConfig
from fedfleet.env import variable
from fedfleet.rounds.recipe import parse_recipe
from fedfleet_coordinator.config import CoordinatorConfig
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_worker.config import WorkerConfig

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
SCRIPTS = [ROOT / ".ci" / "run", ROOT / ".ci" / "wheel-check", ROOT / "deploy" / "smoke.sh"]
DEPLOYED = [ROOT / "deploy" / "Dockerfile", ROOT / "deploy" / "docker-compose.yml"]


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def _make_targets() -> set[str]:
    return set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))


@PAGE
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())

    relative = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in relative if not (page.parent / link).exists()] == []


@PAGE
def test_make_commands_exist(page: Path) -> None:
    mentioned = re.findall(r"(?:`|^)make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE)

    assert set(mentioned) <= _make_targets()


def test_makefile_lists_every_target() -> None:
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert set(re.findall(r"^  make (\S+)", listed, re.MULTILINE)) == _make_targets()


@PAGE
def test_fedfleet_commands_exist(page: Path) -> None:
    text = page.read_text()
    for first, second in re.findall(r"\bfedfleet (?=[a-z])([a-z]+)(?: ([a-z]+))?", _code(text)):
        command = COMMANDS.get(first)
        assert command is not None, f"fedfleet {first}"
        if isinstance(command, Branch) and second:
            assert second in command.commands, f"fedfleet {first} {second}"


def _code(text: str) -> str:
    """What stands in backticks and in shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", text)])


@PAGE
def test_recipes_in_documents_are_valid(page: Path) -> None:
    for block in _blocks(page, "toml"):
        if "[rounds]" in block and "tiny_conv" not in block:  # a plug-in that is not installed
            parse_recipe(block)


def test_architecture_page_names_functions_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    found = re.findall(r"\]\(\.\./([^)]+\.py)\):((?:\s*`\w+`,?)+)", text)

    assert len(found) > 20
    for path, names in found:
        source = (ROOT / path).read_text()
        for name in re.findall(r"\w+", names):
            assert re.search(rf"\b(?:def|class) {name}\b", source), f"{path}: no {name}"


def test_variables_in_documents_and_containers_are_read_by_something() -> None:
    configs = (CoordinatorConfig, WorkerConfig, InferenceConfig, CliConfig)
    known = {variable(item) for config in configs for item in fields(config)}
    # Read by tests, documented for those who run them.
    known |= {"FEDFLEET_TEST_DATA", "FEDFLEET_TEST_REDIS"}
    for path in [*PAGES, *DEPLOYED]:
        unknown = set(re.findall(r"FEDFLEET_[A-Z_]+", path.read_text())) - known
        assert unknown == set(), path.name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_executable_and_parse(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", script], check=True)


def test_every_benchmark_that_make_runs_prints_a_record() -> None:
    command = ["make", "--silent", "--eval=shown: ; @echo $(BENCHES)", "shown"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert len(shown.split()) > 20
    silent = [file for file in shown.split() if "record(" not in (ROOT / file).read_text()]
    assert silent == [], "list them beside record.py in the Makefile: they are what others share"
