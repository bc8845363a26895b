"""From a checked sweep to its trials, by phase: all of a grid, or the tuning trials and, per winner, the
confirming ones.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from attnbench.errors import UsageError
from attnbench.sweep.specification import Sweep
from attnbench.training import TrialConfig


@dataclass(frozen=True)
class Planned:
    """One trial to run. group: arm and scope, within which configurations are ranked and one wins."""

    config: TrialConfig
    trial_id: str
    group: str

    def request(self) -> dict[str, Any]:
        """The row of table `requests`."""
        from attnbench.attention import describe

        config = self.config
        return {
            "trial_id": self.trial_id,
            "arm": config.label,
            "mechanism": describe(config.attention),
            "seed": config.seed,
            "fold": config.fold,
            "role": config.role,
            "config": config.canonical(),
        }


def plan(sweep: Sweep) -> list[TrialConfig]:
    """The trials of the first phase, in the order in which they start; arms take turns."""
    return [planned.config for planned in first_phase(sweep)]


def first_phase(sweep: Sweep) -> list[Planned]:
    """A grid: every configuration on every seed and fold. Tuning: every configuration on the first seed
    and fold.
    """
    seeds = sweep.header.seeds[:1] if sweep.tunes else sweep.header.seeds
    folds = sweep.folds[:1] if sweep.tunes else sweep.folds
    queues: dict[str, list[Planned]] = {}
    for _, group, config in sweep.configurations:
        queues.setdefault(group, []).extend(_planned(config, group, config.role, seeds, folds))
    longest = max(len(queue) for queue in queues.values())
    # Arms take turns, so that a sweep cut short has compared something.
    trials = [queue[turn] for turn in range(longest) for queue in queues.values() if turn < len(queue)]
    _refuse_twins(trials)
    return trials


def confirm_phase(sweep: Sweep, winner: Planned) -> list[Planned]:
    """The winner of a group on every fresh seed and every fold."""
    return list(_planned(winner.config, winner.group, "confirm", sweep.confirm_seeds, sweep.folds))


def confirm_count(sweep: Sweep) -> int:
    """How many confirming trials there will be, whoever wins."""
    return len({group for _, group, _ in sweep.configurations}) * len(sweep.confirm_seeds) * len(sweep.folds)


def _planned(
    config: TrialConfig, group: str, role: str, seeds: Iterable[int], folds: Iterable[int]
) -> Iterable[Planned]:
    for seed in seeds:
        for fold in folds:
            one = config.model_copy(update={"seed": seed, "fold": fold, "role": role})
            yield Planned(one, one.trial_id, group)


def _refuse_twins(trials: list[Planned]) -> None:
    seen: dict[str, Planned] = {}
    for planned in trials:
        if planned.trial_id in seen:
            raise UsageError(
                f"'{seen[planned.trial_id].group}' and '{planned.group}' hold the same trial; "
                "a sweep runs each once"
            )
        seen[planned.trial_id] = planned
