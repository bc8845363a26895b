"""The scheduler of a sweep, with what ended in earlier commands already in its rungs."""

from typing import Any

from attnbench.sweep.campaign import Campaign, Entry
from attnbench.sweep.ladder import Ladder
from attnbench.sweep.schedulers import Asha, Halving, Resuming
from attnbench.sweep.seat import METRICS, position
from attnbench.training import TrainConfig


def scheduler_of(campaign: Campaign, workers: int, limit: int | None) -> Resuming:
    """Grid: in order; halving or ASHA: per group. limit: trials at once, where resources bound nothing."""
    kind = campaign.sweep.search.kind
    if kind == "grid":
        return Resuming(workers, limit)
    trains = {
        entry.planned.group: entry.planned.config.train
        for entry in campaign.entries.values()
        if entry.planned.config.role == "tune"
    }
    make = _halving if kind == "halving" else _asha
    return make(campaign, trains, workers, limit)


def _halving(campaign: Campaign, trains: dict[str, TrainConfig], workers: int, limit: int | None) -> Halving:
    ladders = {}
    for group, train in trains.items():
        members = campaign.members(group)
        ladder = Ladder(
            campaign.sweep.rungs(train),
            [entry.planned.trial_id for entry in members],
            campaign.sweep.search.reduction,
        )
        for entry in members:
            if entry.before:
                for report in _reports(campaign, entry):
                    ladder.report(entry.planned.trial_id, report["time"], campaign.score(report))
                ladder.fail(entry.planned.trial_id)  # it will not report again
        ladders[group] = ladder
    return Halving(ladders, campaign.score, workers, limit)


def _asha(campaign: Campaign, trains: dict[str, TrainConfig], workers: int, limit: int | None) -> Asha:
    search = campaign.sweep.search
    grace = min(campaign.sweep.rungs(train)[0] for train in trains.values())
    budgets = {group: train.budget for group, train in trains.items()}
    scheduler = Asha(budgets, grace, search.reduction, campaign.score, workers, limit)
    for group in trains:
        for entry in campaign.members(group):
            if entry.before:
                scheduler.replay(group, entry.planned.trial_id, _reports(campaign, entry))
    return scheduler


def _reports(campaign: Campaign, entry: Entry) -> list[dict[str, Any]]:
    """A finished trial's evaluations, as its worker reported them."""
    config = entry.planned.config
    rows = campaign.store.reports(config.sweep, entry.planned.trial_id, entry.attempt)
    return [
        {"time": position(config, row), **{f"val_{name}": row.get(name) for name in METRICS}} for row in rows
    ]
