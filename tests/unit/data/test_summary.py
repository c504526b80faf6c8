from __future__ import annotations

import numpy as np

from fedfleet.data.summary import describe_partition


def test_describe_partition_counts_what_each_shard_holds():
    labels = np.array([0, 0, 1, 1, 2, 2], np.int64)
    shards = [np.array([0, 1]), np.array([2, 3, 4, 5])]

    rows = describe_partition(labels, shards, ["a", "b", "c"])

    assert [(row.shard, row.examples, row.classes_held) for row in rows] == [(0, 2, 1), (1, 4, 2)]
    assert [row.per_class for row in rows] == [(2, 0, 0), (0, 2, 2)]
    np.testing.assert_allclose([row.skew for row in rows], [2 / 3, 1 / 3])
    assert [row.entropy for row in rows] == [0.0, 1.0]
    assert "owners" not in rows[0].to_json(["a", "b", "c"])
    assert rows[0].to_json(["a", "b", "c"])["per_class"] == {"a": 2, "b": 0, "c": 0}


def test_describe_partition_finds_no_skew_in_equal_mixes():
    labels = np.array([0, 1, 0, 1], np.int64)

    rows = describe_partition(labels, [np.array([0, 1]), np.array([2, 3])], ["a", "b"])

    assert [row.skew for row in rows] == [0.0, 0.0]


def test_describe_partition_names_owners_where_there_are_any():
    labels = np.array([0, 1], np.int64)

    rows = describe_partition(labels, [np.array([0]), np.array([1])], ["a", "b"], [("K",), ("Q",)])

    assert [row.to_json(["a", "b"])["owners"] for row in rows] == [["K"], ["Q"]]


def test_describe_partition_counts_boxes_where_there_are_any():
    labels = np.array([1, 0, 0], np.int64)
    boxes = np.zeros((3, 2, 5), np.float32)
    boxes[:, :, 0] = [[1, 0], [0, -1], [-1, -1]]

    rows = describe_partition(labels, [np.array([0]), np.array([1, 2])], ["a", "b"], boxes=boxes)

    assert [(row.examples, row.boxes, row.per_class) for row in rows] == [
        (1, 2, (1, 1)),
        (2, 1, (1, 0)),
    ]
    assert [row.classes_held for row in rows] == [2, 1]
    assert [row.entropy for row in rows] == [1.0, 0.0]
    assert rows[0].to_json(["a", "b"])["boxes"] == 2
    assert "boxes" not in describe_partition(labels, [np.array([0])], ["a", "b"])[0].to_json("ab")
