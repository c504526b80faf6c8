from __future__ import annotations

from records import record

from fedfleet.reports.groups import group_records
from fedfleet.reports.plots import breakdown_plots, comparing_plots, file_prefix


def test_comparing_plots_are_accuracy_and_loss_over_what_is_known() -> None:
    def names(virtual: bool) -> list[str]:
        return [plot.name for plot in comparing_plots(group_records([record(virtual=virtual)]))]

    assert names(virtual=False) == [
        *("accuracy-by-round", "accuracy-by-bytes", "accuracy-by-time"),
        *("loss-by-round", "loss-by-bytes", "loss-by-time"),
    ]
    assert set(names(virtual=True)) - set(names(virtual=False)) == {
        "accuracy-by-virtual-time",
        "loss-by-virtual-time",
    }


def test_breakdown_plots_are_of_what_the_record_has() -> None:
    assert [plot.name for plot in breakdown_plots(record(), "1-")] == [
        "1-class-accuracy",
        "1-confusion",
        "1-worker-accuracy",
        "1-worker-accuracy-by-round",
        "1-data-map",
    ]
    assert breakdown_plots(record((), with_data=False)) == []
    bare = record((None,), workers=(50,), with_data=False)
    assert [plot.name for plot in breakdown_plots(bare)] == ["class-accuracy", "worker-accuracy"]


def test_file_prefix_is_fit_for_any_file_system() -> None:
    groups = group_records([record(name="../../A b", lr=0.1), record(name="\u4e2d", lr=0.2)])

    assert file_prefix(0, groups[0], 1) == ""
    assert file_prefix(0, groups[0], 2) == "1-a-b-"
    assert file_prefix(1, groups[1], 2) == "2-u4e2d-" or file_prefix(1, groups[1], 2) == "2-"
