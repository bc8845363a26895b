"""Hands the campaign's trials to Tune one by one; new ones appear when a winner is known."""

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from attnbench.sweep.campaign import Campaign, Entry


class Feed(Searcher):
    """A Tune searcher that suggests nothing of its own. common: what every worker needs, put into each
    configuration;
    has_room: whether another trial may start now.
    """

    def __init__(self, campaign: Campaign, common: dict[str, Any], has_room: Callable[[], bool]):
        super().__init__(metric=None, mode=None)
        self.campaign = campaign
        self.common = common
        self.has_room = has_room

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration; None while there may be more later; FINISHED at the end."""
        if self.campaign.todo:
            if not self.has_room():
                return None
            return self._config(self.campaign.todo.popleft())
        return Searcher.FINISHED if self.campaign.finished() else None

    def _config(self, entry: Entry) -> dict[str, Any]:
        config = entry.planned.config
        rungs = self.campaign.sweep.rungs(config.train) if config.role == "tune" else []
        return {
            **self.common,
            "id": entry.planned.trial_id,
            "group": entry.planned.group,
            "role": config.role,
            "attempt": entry.attempt,
            "rungs": " ".join(str(rung) for rung in rungs),
            "config": config.canonical(),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The watch (watch.py) tells the campaign; nothing to do here."""

    def save(self, checkpoint_path: str) -> None:
        """Our tables are the state; Tune's snapshot holds none of it."""

    def restore(self, checkpoint_path: str) -> None:
        """See save."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """See save."""
