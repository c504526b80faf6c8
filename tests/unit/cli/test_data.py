from __future__ import annotations

import json
from pathlib import Path


def test_describe_counts_every_example_once(cli) -> None:
    document = cli("data", "describe", "--recipe", "digits", "--json").document

    shards = document["shards"]
    assert len(shards) == 4
    assert sum(shard["examples"] for shard in shards) == document["examples"] == 1438
    assert all(sum(s["per_class"].values()) == s["examples"] for s in shards)


def test_describe_prints_one_line_per_worker(cli, tiny: Path) -> None:
    result = cli("data", "describe", "--recipe", str(tiny))

    assert result.status == 0
    assert "synthetic, 400 training examples, partition iid, seed 3" in result.out
    assert [line.split()[1] for line in result.out.splitlines() if "200" in line] == ["0", "1"]


def test_describe_of_a_hundred_classes_is_narrow_enough(cli, tmp_path: Path, tiny: Path) -> None:
    recipe = tmp_path / "wide.toml"
    recipe.write_text(
        tiny.read_text().replace('dataset = "synthetic"', 'dataset = "synthetic"\nclasses = 100')
    )

    result = cli("data", "describe", "--recipe", str(recipe))

    assert result.status == 0
    assert max(len(line) for line in result.out.splitlines()) <= 160
    assert "cloud99" not in result.out


def test_partition_writes_what_describe_counts(cli, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "shards"

    files = cli("data", "partition", "--recipe", "digits", "--out", str(folder), "--json").document[
        "files"
    ]
    described = cli("data", "describe", "--recipe", "digits", "--json").document

    documents = [json.loads(Path(path).read_text()) for path in files]
    assert [len(d["index"]) for d in documents] == [s["examples"] for s in described["shards"]]
    assert sorted(i for d in documents for i in d["index"]) == list(range(1438))
    assert sorted(path.name for path in folder.iterdir()) == [Path(p).name for p in files]


def test_partition_of_own_data_is_refused(cli, tmp_path: Path, tiny: Path) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text(tiny.read_text().replace('partition = "iid"\nworkers = 2\n', ""))

    result = cli("data", "partition", "--recipe", str(recipe), "--out", str(tmp_path / "out"))

    assert result.status == 1
    assert result.err.startswith("fedfleet: INVALID_INPUT: ")
    assert not (tmp_path / "out").exists()


def test_partition_into_a_file_is_refused(cli, tmp_path: Path, tiny: Path) -> None:
    result = cli("data", "partition", "--recipe", str(tiny), "--out", str(tiny))

    assert result.status == 1
    assert result.err.startswith("fedfleet: SETTING_INVALID: --out")
