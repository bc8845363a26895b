"""The plan: which trials a sweep asks for, phase by phase, and what it is expected to cost."""

from attnbench.results import Store
from attnbench.sweep.estimate import estimate, trial_steps
from attnbench.sweep.planning import Planned, confirm_count, confirm_phase, first_phase
from attnbench.sweep.specification import read_specification
from attnbench.training import TrainConfig


def test_a_grid_asks_for_every_configuration_on_every_seed_and_fold_and_arms_take_turns(specification):
    sweep = read_specification(specification("grid", attention=["softmax", "alibi"], seeds=2, folds=[0, 3]))
    trials = first_phase(sweep)
    assert len({trial.trial_id for trial in trials}) == len(trials) == 8
    assert [trial.config.label for trial in trials] == ["softmax", "alibi"] * 4
    seeds_and_folds = {(trial.config.seed, trial.config.fold) for trial in trials}
    assert seeds_and_folds == {(0, 0), (0, 3), (1, 0), (1, 3)}
    assert {trial.config.role for trial in trials} == {"grid"} and confirm_count(sweep) == 0


def test_tuning_takes_one_seed_and_one_fold_and_winners_run_on_fresh_seeds_and_all_folds(specification):
    train = {"steps": 12, "batch": 32, "lr": [1e-3, 3e-3], "eval_every": 3}
    search = {"kind": "halving", "grace": 3, "confirm_seeds": 2}
    sweep = read_specification(specification("tuned", seeds=[7, 8], folds=5, train=train, search=search))
    trials = first_phase(sweep)
    assert {(trial.config.seed, trial.config.fold, trial.config.role) for trial in trials} == {(7, 0, "tune")}
    confirming = confirm_phase(sweep, trials[1])
    assert len(confirming) == confirm_count(sweep) == 10
    assert {trial.config.seed for trial in confirming} == {1000, 1001}
    assert {trial.config.role for trial in confirming} == {"confirm"}
    assert {trial.config.train for trial in confirming} == {trials[1].config.train}


def test_a_request_names_the_arm_and_holds_the_whole_configuration(specification):
    [planned] = first_phase(read_specification(specification("asked")))
    row = planned.request()
    assert (row["arm"], row["mechanism"], row["seed"], row["role"]) == ("softmax", "softmax", 0, "grid")
    again = type(planned.config).model_validate_json(row["config"])
    assert Planned(again, again.trial_id, planned.group).trial_id == row["trial_id"]


def test_rungs_multiply_and_fall_on_evaluations(specification):
    search = {"kind": "halving", "confirm_seeds": 0}
    sweep = read_specification(specification("rungs", search=search, train={"epochs": 27, "batch": 32}))
    assert sweep.rungs(TrainConfig(epochs=27)) == [3, 9, 27]
    assert sweep.rungs(TrainConfig(epochs=20)) == [3, 9, 20]
    assert sweep.rungs(TrainConfig(steps=200)) == [40, 120, 200]
    assert sweep.rungs(TrainConfig(epochs=1)) == [1]


def test_the_estimate_counts_all_phases_and_takes_the_pace_of_earlier_trials(specification, tmp_path):
    search = {"kind": "halving", "grace": 3, "confirm_seeds": 2}
    train = {"steps": 27, "batch": 32, "lr": {"loguniform": [1e-4, 1e-2]}, "eval_every": 3}
    path = specification("guess", train=train, search={**search, "samples": 9})
    sweep, store = read_specification(path), Store(tmp_path / "results")
    guess = estimate(sweep, store, workers=2)
    assert (guess.trials, guess.tuning, guess.confirming, guess.source) == (11, 9, 2, "FLOPs")
    assert guess.hours > 0 and guess.disk_bytes > 0
    config = sweep.configurations[0][2]
    assert trial_steps(config) == 27
    row = {"mechanism": "softmax", "workload": "digits", "host_params": config.host.model_dump(mode="json")}
    store.sink("earlier", "a" * 16).final({**row, "status": "ok", "examples": 1000, "busy_s": 100.0})
    paced = estimate(sweep, store, workers=2)
    # nine tuned (six to the first of three rungs, two to the second), two confirmed, 0.1 s an example
    wanted = 27 * 32 * 0.1 * (6 * 3 / 27 + 2 * 9 / 27 + 1 + 2)
    assert paced.source == "earlier trials" and abs(paced.seconds - wanted) < 0.05 * wanted
