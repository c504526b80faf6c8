from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest


def test_describe_counts_every_example_once(cli) -> None:
    document = cli("data", "describe", "digits", "--json").document

    shards = document["shards"]
    assert len(shards) == 4
    assert sum(shard["examples"] for shard in shards) == document["examples"] == 1438
    assert all(sum(s["per_class"].values()) == s["examples"] for s in shards)


def test_describe_prints_one_line_per_worker(cli, tiny: Path) -> None:
    result = cli("data", "describe", str(tiny))

    assert result.status == 0
    assert "synthetic, 400 training examples, partition iid, seed 3" in result.out
    assert [line.split()[1] for line in result.out.splitlines() if "200" in line] == ["0", "1"]


def test_describe_of_a_hundred_classes_is_narrow_enough(cli, tmp_path: Path, tiny: Path) -> None:
    recipe = tmp_path / "wide.toml"
    recipe.write_text(
        tiny.read_text().replace('dataset = "synthetic"', 'dataset = "synthetic"\nclasses = 100')
    )

    result = cli("data", "describe", str(recipe))

    assert result.status == 0
    assert max(len(line) for line in result.out.splitlines()) <= 160
    assert "cloud99" not in result.out


def test_partition_writes_what_describe_counts(cli, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "shards"

    files = cli("data", "partition", "digits", "--out", str(folder), "--json").document["files"]
    described = cli("data", "describe", "digits", "--json").document

    documents = [json.loads(Path(path).read_text()) for path in files]
    assert [len(d["index"]) for d in documents] == [s["examples"] for s in described["shards"]]
    assert sorted(i for d in documents for i in d["index"]) == list(range(1438))
    assert sorted(path.name for path in folder.iterdir()) == [Path(p).name for p in files]


def test_partition_of_own_data_is_refused(cli, tmp_path: Path, tiny: Path) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text(tiny.read_text().replace('partition = "iid"\nworkers = 2\n', ""))

    result = cli("data", "partition", str(recipe), "--out", str(tmp_path / "out"))

    assert result.status == 1
    assert result.err.startswith("fedfleet: INVALID_INPUT: ")
    assert not (tmp_path / "out").exists()


def test_partition_into_a_file_is_refused(cli, tmp_path: Path, tiny: Path) -> None:
    result = cli("data", "partition", str(tiny), "--out", str(tiny))

    assert result.status == 1
    assert result.err.startswith("fedfleet: SETTING_INVALID: --out")


@pytest.mark.parametrize(("name", "starts"), [("map.png", b"\x89PNG"), ("map.SVG", b"<?xml")])
def test_describe_plots_into_a_file(cli, tmp_path: Path, tiny: Path, name, starts) -> None:
    path = tmp_path / name

    result = cli("data", "describe", str(tiny), "--plot", str(path))

    assert result.status == 0
    assert path.read_bytes().startswith(starts)
    assert "synthetic, 400 training examples" in result.out


@pytest.mark.parametrize("name", ["map", "map.pdf"])
def test_describe_refuses_another_format(cli, tmp_path: Path, tiny: Path, name) -> None:
    result = cli("data", "describe", str(tiny), "--plot", str(tmp_path / name))

    assert result.status == 1
    assert result.err.startswith("fedfleet: SETTING_INVALID: --plot")
    assert "must end in .png or .svg" in result.err


def test_describe_into_a_folder_that_is_not_there_says_so(cli, tmp_path: Path, tiny: Path) -> None:
    result = cli("data", "describe", str(tiny), "--plot", str(tmp_path / "no" / "map.png"))

    assert result.status == 1
    assert result.err.startswith("fedfleet: SETTING_INVALID: --plot")
    assert "No such file" in result.err


def test_plot_without_matplotlib_says_what_to_install(tiny: Path) -> None:
    """In a process that has not loaded it and cannot."""
    code = (
        "import sys\n"
        "sys.modules['matplotlib'] = None\n"
        "from fedfleet.cli.main import main\n"
        f"assert main(['data', 'describe', {str(tiny)!r}], {{}}) == 0\n"
        f"sys.exit(main(['data', 'describe', {str(tiny)!r}, '--plot', 'map.png'], {{}}))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "pip install '.[report]'" in done.stderr


def test_describe_names_the_commonest_classes_of_many(cli, tmp_path: Path, tiny: Path) -> None:
    recipe = tmp_path / "many.toml"
    text = tiny.read_text().replace('"synthetic"', '"synthetic"\nclasses = 30')
    recipe.write_text(text.replace('"iid"', '"classes"\nclasses_per_worker = 15'))

    lines = cli("data", "describe", str(recipe)).out.splitlines()

    named = [line for line in lines if re.search(r"(cloud\d+ 1[34](, )?){3}", line)]
    assert len(named) == 2


def test_describe_says_whose_the_examples_are(cli, tmp_path: Path) -> None:
    plays = tmp_path / "shakespeare"
    plays.mkdir()
    (plays / "play.txt").write_text("KING:\n" + "ab" * 60 + "\n\nALL:\n" + "xyz" * 40 + "\n")
    recipe = tmp_path / "plays.toml"
    recipe.write_text(PLAYS)

    result = cli("data", "describe", str(recipe), "--data-dir", str(tmp_path))
    document = cli("data", "describe", str(recipe), "--data-dir", str(tmp_path), "--json").document

    lines = [line for line in result.out.splitlines() if "KING" in line or "ALL" in line]
    assert len(lines) == 2
    assert sorted(shard["owners"] for shard in document["shards"]) == [["ALL"], ["KING"]]
    assert sorted(round(shard["entropy"], 2) for shard in document["shards"]) == [1.0, 1.58]


PLAYS = """
name = "plays"

[model]
architecture = "char_lstm"

[data]
dataset = "shakespeare"
partition = "natural"
workers = 2
sequence = 5
min_samples = 4

[rounds]
rounds = 2
cohort = 2
"""


def test_describe_counts_boxes_where_there_are_any(cli, tmp_path: Path, tiny: Path) -> None:
    recipe = tmp_path / "boxes.toml"
    text = tiny.read_text().replace('"synthetic"', '"shapes"\nsamples = 40\nimage_size = 32')
    text = text.replace("seed = 3", 'seed = 3\nkind = "detection"')
    recipe.write_text(text.replace('"mlp"\nhidden = [8]', '"ssd_tiny"'))
    plot = tmp_path / "map.svg"

    result = cli("data", "describe", str(recipe), "--plot", str(plot))
    document = cli("data", "describe", str(recipe), "--json").document

    shards = document["shards"]
    assert sum(shard["examples"] for shard in shards) == document["examples"] == 40
    assert all(sum(shard["per_class"].values()) == shard["boxes"] for shard in shards)
    assert sum(shard["boxes"] for shard in shards) == document["boxes"] > 40
    assert f"shapes, 40 training examples with {document['boxes']} boxes" in result.out
    rows = [re.findall(r"[\w.]+", line) for line in result.out.splitlines()]
    counted = [str(shards[1][name]) for name in ("examples", "boxes", "classes_held")]
    assert ["1", *counted] in [row[:4] for row in rows]
    assert "star" in result.out
    assert plot.read_bytes().startswith(b"<?xml")
