"""Tune schedulers: halving and ASHA per group, and how a loser ends with exactly one `stopped` row.

A loser is not stopped by Tune, because then nobody writes its row. It is paused, gets `verdict: stopped`
into its configuration and is resumed; its worker writes the row and reports done (workers.py, actor.py).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import ray
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from attnbench.sweep.ladder import GO, STOP, Ladder

WORST = 1e30
"""Stands for a score that is not finite: ASHA compares `score < cutoff`, which is never true for NaN."""


class Resuming(FIFOScheduler):
    """First in, first out, plus a queue of paused trials that may go on. It alone runs a grid.

    pool: actors that shall live; limit: trials at once, where resources do not bound them (Tune's own
    limit counts paused trials, and would stand still for ever).
    """

    def __init__(self, pool: int = 1, limit: int | None = None) -> None:
        super().__init__()
        self.pool = pool
        self.limit = limit
        self._controller: Any = None
        self.resumable: dict[str, Trial] = {}
        self.trials: dict[str, Trial] = {}

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        if not self.trials:
            self._controller = getattr(tune_controller, "_tune_controller", tune_controller)
            # Tune keeps one idle actor at most: at each rung the pool would shrink, and pay imports again.
            self._controller._actor_cache.increase_max(trial.placement_group_factory, by=self.pool)
            # Tune gives its actors an environment of their own, for which Ray starts new processes although
            # it holds started ones ready; what its variables say the actor sets itself.
            trainable = trial.get_trainable_cls()
            self._controller._class_cache._cache.setdefault(trainable, ray.remote(trainable))
        self.trials[trial.config["id"]] = trial

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """A paused trial that may go on; pending ones are started by the controller itself, in order."""
        if not self.has_room():
            return None
        for key, trial in list(self.resumable.items()):
            if trial.status == Trial.PAUSED:
                return trial
            if trial.status != Trial.RUNNING:  # running: its pause is still being saved
                del self.resumable[key]
        return None

    def has_room(self) -> bool:
        """Whether another trial may start now."""
        if self.limit is None or self._controller is None:
            return True
        return len(self._controller._running_trials) + len(self._controller._pending_trials) < self.limit

    def resume(self, trial: Trial) -> None:
        self.resumable[trial.config["id"]] = trial

    def retire(self, trial: Trial) -> None:
        """Let the trial's worker write its `stopped` row."""
        trial.set_config({**trial.config, "verdict": "stopped"})
        self.resume(trial)


class Halving(Resuming):
    """Synchronous successive halving, one ladder per group; trials pause at rungs.

    ladders: group -> Ladder over the ids of its trials; score: report -> the metric, better when higher.
    """

    def __init__(
        self,
        ladders: Mapping[str, Ladder],
        score: Callable[[Mapping[str, Any]], float],
        pool: int = 1,
        limit: int | None = None,
    ) -> None:
        super().__init__(pool, limit)
        self.ladders = ladders
        self.score = score

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        ladder, key = self._ladder(trial), trial.config["id"]
        if ladder is None:
            return TrialScheduler.CONTINUE
        verdicts = ladder.report(key, result["time"], self.score(result))
        self._carry_out(verdicts, running=key)
        verdict = ladder.verdict(key)
        if verdict == STOP:
            self.retire(trial)
        return TrialScheduler.CONTINUE if verdict == GO else TrialScheduler.PAUSE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        if result.get("status") not in ("ok", "stopped"):
            self._lost(trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        if not trial.should_recover():
            self._lost(trial)

    def _lost(self, trial: Trial) -> None:
        ladder = self._ladder(trial)
        if ladder is not None:
            self._carry_out(ladder.fail(trial.config["id"]), running=trial.config["id"])

    def _carry_out(self, verdicts: Mapping[str, str], running: str) -> None:
        for key, verdict in verdicts.items():
            trial = self.trials.get(key)
            if key == running or trial is None or trial.is_finished():
                continue
            if verdict == STOP:
                self.retire(trial)
            else:
                self.resume(trial)

    def _ladder(self, trial: Trial) -> Ladder | None:
        return self.ladders.get(trial.config["group"]) if trial.config["role"] == "tune" else None


class Asha(Resuming):
    """Ray's ASHAScheduler, one per group, so that arms never compete for early rungs."""

    def __init__(
        self, budgets: Mapping[str, int], grace: int, reduction: int,
        score: Callable[[Mapping[str, Any]], float], pool: int = 1, limit: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(pool, limit)
        self.score = score
        self.children = {
            group: ASHAScheduler(
                time_attr="time",
                metric="score",
                mode="max",
                max_t=budget,
                grace_period=min(grace, budget),
                reduction_factor=reduction,
                stop_last_trials=False,
            )
            for group, budget in budgets.items()
        }

    def replay(self, group: str, key: str, reports: Sequence[Mapping[str, Any]]) -> None:
        """Put the scores of a trial that has ended into its group's rungs."""
        trial: Any = SimpleNamespace(trial_id=key)
        child: Any = self.children[group]
        child.on_trial_add(None, trial)
        for report in reports:
            child.on_trial_result(None, trial, self._judged(report))
        child.on_trial_remove(None, trial)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        child = self._child(trial)
        if child is not None:
            child.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        child = self._child(trial)
        if (
            child is None
            or child.on_trial_result(tune_controller, trial, self._judged(result)) != TrialScheduler.STOP
        ):
            return TrialScheduler.CONTINUE
        self.retire(trial)
        return TrialScheduler.PAUSE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        child = self._child(trial)
        if child is None:
            return
        if result.get("status") == "ok":
            child.on_trial_complete(tune_controller, trial, self._judged(result))
        else:
            child.on_trial_remove(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        child = self._child(trial)
        if child is not None:
            child.on_trial_remove(tune_controller, trial)

    def _child(self, trial: Trial) -> ASHAScheduler | None:
        return self.children.get(trial.config["group"]) if trial.config["role"] == "tune" else None

    def _judged(self, report: Mapping[str, Any]) -> dict[str, Any]:
        score = self.score(report)
        return {"time": report["time"], "score": score if math.isfinite(score) else -WORST}
