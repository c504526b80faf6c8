"""Where each step of the acceptance ladder and each defect of known implementations is held.

algorithms.md has the ladder in section 7, the defects in section 6; what is not listed belongs to
features that are not built yet (privacy, robust rules, secure aggregation).
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = "tests/unit/algorithms"
ROUNDS = "tests/unit/rounds"
LADDER = "tests/ladder/test_same_algorithm.py"
HETEROFL = "tests/ladder/test_heterofl_models.py"
DEFECTS = "tests/contract/algorithms/test_reference_defects.py"
RESULTS = "docs/results.md"

# By step, what it asks and the test, or the experiment of docs/results.md, that answers.
STEPS = {
    "1 FedAvg's closed form": f"{UNIT}/test_fedavg.py: quadratics_reach_the_closed_form",
    "1 SCAFFOLD I and II": f"{UNIT}/test_scaffold.py: reaches_the_optimum_that_fedavg_misses",
    "1 FedDyn, exact": f"{UNIT}/test_feddyn.py: with_exact_solves_reaches_the_optimum",
    "1 FedDyn, small alpha": f"{UNIT}/test_feddyn.py: with_a_small_alpha_is_slow",
    "1 FedProx, exact": f"{UNIT}/test_fedprox.py: exact_solves_has_the_fixed_point",
    "1 SCAFFOLD, 2 of 10": f"{UNIT}/test_scaffold.py: two_of_ten_workers_per_round_reaches",
    "1 FedAvg, 2 of 10": f"{UNIT}/test_scaffold.py: two_of_ten_workers_per_round_keeps_fluct",
    "2 FedNova": f"{UNIT}/test_fednova.py: undoes_the_pull",
    "2 norms of a": f"{UNIT}/test_fednova.py: reach_with_momentum_is_the_papers",
    "3 FedOpt's first steps": f"{UNIT}/test_fedopt.py: first_step_is_the_papers",
    "3 FedAvgM by hand": f"{UNIT}/test_fedopt.py: two_steps_that_are_computed_by_hand",
    "3 FedOpt is FedAvg": f"{UNIT}/test_fedprox.py: without_what_an_algorithm_adds",
    "3 FedProx with mu 0": f"{UNIT}/test_fedprox.py: mu_zero_is_fedavg_bit_for_bit",
    "3 FedBuff is FedAvg": "tests/unit/sim/test_asynchronous.py: whole_fresh_buffers_is_uniform",
    "3 SlowMo": f"{LADDER}: heavy_ball_is_slowmo",
    "3 local SGD of one step": f"{LADDER}: one_step_is_gradient_descent_on_all_data",
    "4 parameters by level": f"{HETEROFL}: published_parameters_by_level",
    "4 owners of coordinates": f"{HETEROFL}: one_two_or_three_owners",
    "4 scaler": f"{HETEROFL}: in_training_what_it_gives_in_evaluation",
    "9 FedAvg against FedSGD": f"{RESULTS}: mcmahan",
    "10 ordering under label skew": f"{RESULTS}: algorithms",
    "12 FedGW's weights": f"{UNIT}/test_fedgw.py: noisy_or_one_sided_data",
    "12 FedGW's accuracy": f"{RESULTS}: fedgw",
    "12 FedSeq's groups": "tests/ladder/test_grouping_quality.py: greedy_groups_are_nearer",
    "12 FedSeq's rounds": f"{RESULTS}: fedseq",
    "12 power of choice, d = m": f"{ROUNDS}/test_power_of_choice.py: as_many_candidates_as_the_co",
    "12 skewed draws, unbiased": f"{ROUNDS}/test_systematic.py: unbiased_over_every_draw",
    "12 order of gamma": f"{RESULTS}: skew",
    "12 FedBuff against rounds": "tests/unit/sim/test_asynchronous.py: twice_as_fast_as_rounds",
}

# By row of section 6.
ROWS = {
    "Flower fedadam, exponent": f"{DEFECTS}: fedadam_corrects_the_bias",
    "Flower fedadam, v0": f"{DEFECTS}: fedadam_squares_begin_at_zero",
    "Flower fedadam, buffers": f"{DEFECTS}: fedadam_sends_buffers",
    "Flower fedavgm": f"{DEFECTS}: fedavgm_has_no_nesterov",
    "Flower aggregate_arrayrecords": f"{DEFECTS}: averages_integer_counters",
    "Flower niid_bench scaffold, start": f"{DEFECTS}: late_joiner",
    "Flower niid_bench scaffold, weights": f"{DEFECTS}: weighs_variates_by_samples",
    "Flower niid_bench scaffold, momentum": f"{DEFECTS}: divides_by_the_steps_under_momentum",
    "FedSeq FedDynClient, .data": f"{DEFECTS}: linear_term_without_gradient",
    "FedSeq FedDynClient, per batch": f"{DEFECTS}: kept_gradient_with_every_batch",
    "FedSeq PGD": f"{DEFECTS}: prox_is_added_behind_the_momentum_buffer",
    "PFLlib serverbase": f"{DEFECTS}: pfllib_takes_the_buffers_of_one_worker",
    "FedBN authors": f"{DEFECTS}: piece_of_the_name",
    "NIID-Bench scaffold": f"{DEFECTS}: variates_cover_buffers",
    "NIID-Bench FedNova, tiny workers": f"{LADDER}: hold_almost_nothing",
    "Seed 003, hash() seeds": "tests/unit/training/test_seeding.py: same_in_every_process",
}


@pytest.mark.parametrize("where", {**STEPS, **ROWS}.values())
def test_what_the_index_names_exists(where: str) -> None:
    path, _, part = where.partition(": ")

    text = (ROOT / path).read_text()

    if path == RESULTS:
        found = re.findall(r"<!-- experiment: (\S+) -->", text)
        assert found.count(part) == 1
    else:
        functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
        assert len([f for f in functions if f.name.startswith("test_") and part in f.name]) == 1
