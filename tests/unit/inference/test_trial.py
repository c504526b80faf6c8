from __future__ import annotations

from detectors import CLASSIFIER, servable

from fedfleet_inference_api.trial import Trial

FIRST, SECOND = servable(CLASSIFIER, 1), servable(CLASSIFIER, 2)


def test_trial_counts_failures_of_its_version_in_its_first_time():
    now_s = [0.0]
    trial = Trial(failures=2, window_s=10.0, clock=lambda: now_s[0])
    trial.begin(FIRST)

    assert not trial.has_failed(FIRST, is_unfit=False)
    assert not trial.has_failed(SECOND, is_unfit=True)  # another one's
    trial.begin(FIRST)  # goes on, and does not begin anew
    assert trial.has_failed(FIRST, is_unfit=False)

    trial.begin(SECOND)
    assert not trial.has_failed(SECOND, is_unfit=False)
    now_s[0] = 10.1
    assert not trial.has_failed(SECOND, is_unfit=False)
    assert trial.has_failed(SECOND, is_unfit=True)
