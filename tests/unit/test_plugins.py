from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedfleet import plugins


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with two models, as pip would have laid it down."""
    (tmp_path / "edge_models.py").write_text("def tiny(): return 'tiny'\ndef small(): ...\n")
    info = tmp_path / "edge_models-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: edge-models\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fedfleet.models]\ntiny = edge_models:tiny\nsmall = edge_models:small\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "edge_models", raising=False)


@pytest.mark.usefixtures("installed")
def test_names_lists_a_group_in_order_without_importing_it() -> None:
    assert plugins.names(plugins.MODELS) == ("small", "tiny")
    assert plugins.names(plugins.DATASETS) == ()
    assert "edge_models" not in sys.modules


@pytest.mark.usefixtures("installed")
def test_load_imports_and_returns_the_object() -> None:
    assert plugins.load(plugins.MODELS, "tiny")() == "tiny"


@pytest.mark.usefixtures("installed")
def test_load_of_an_unknown_name_raises_key_error() -> None:
    with pytest.raises(KeyError, match="huge"):
        plugins.load(plugins.MODELS, "huge")
