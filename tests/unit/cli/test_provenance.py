from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import fedfleet
from fedfleet.cli.provenance import commit, machine, package_versions


def test_versions_are_those_that_run() -> None:
    versions = package_versions()

    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"fedfleet", "torch", "numpy"} <= set(versions)


def test_machine_is_described() -> None:
    assert set(machine()) == {"system", "processor", "cores"}
    assert all(machine().values())


def test_commit_is_that_of_the_checkout_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r"([0-9a-f]{7,40}(-dirty)?)?", commit())

    monkeypatch.setenv("PATH", "")
    assert commit() == ""


def test_commit_of_an_installed_package_is_not_that_of_the_folder_around_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fedfleet, "__file__", str(tmp_path / "fedfleet" / "__init__.py"))

    assert commit() == ""
