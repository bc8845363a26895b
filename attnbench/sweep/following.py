"""MLflow beside a running sweep."""

import sys
from typing import Any

from attnbench.results import Store


class Follower:
    """MLflow follows in a process of its own. What hinders it never hinders the sweep: `mlflow sync`
    catches up.
    """

    def __init__(self, store: Store, sweep: str, wanted: bool):
        self.store, self.sweep, self.wanted = store, sweep, wanted
        self.process: Any = None

    def start(self) -> None:
        """Called at the first report: its two seconds of imports must not delay the first step."""
        if not self.wanted or self.process is not None:
            return
        from attnbench.results import start_mirror

        try:
            self.process = start_mirror(str(self.store.path), self.sweep)
        except Exception as error:
            self.wanted = False
            print(
                f"attnbench: MLflow does not follow ({error}); 'attnbench mlflow sync' catches up later",
                file=sys.stderr,
            )

    def finish(self) -> None:
        """Wait for the last pass."""
        if self.process is None:
            return
        from attnbench.results import finish_mirror

        try:
            complete = finish_mirror(self.process)
        except Exception:
            complete = False
        if not complete:
            print(
                "attnbench: MLflow has not got everything; 'attnbench mlflow sync' catches up",
                file=sys.stderr,
            )
