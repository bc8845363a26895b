"""The barrier that keeps the pool of reused actors from starving.

Tune cancels an actor that is still starting when another, already free, can take its trial. With trials
shorter than an actor's start the pool would therefore stay at one actor. So every actor registers when
it is ready, and
the first step of each waits until the whole pool is there. Ray's key-value store holds the register: it
works across nodes.
"""

import time
from typing import Any

PATIENCE_S = 20.0
LOOK_EVERY_S = 0.02


class Pool:
    """The register of one sweep's actors. name: unique for this command; size: how many actors there
    shall be.
    """

    def __init__(self, name: str, size: int):
        self.prefix = f"attnbench/{name}/actor/".encode()
        self.open_key = f"attnbench/{name}/open".encode()
        self.size = size
        self.passed = False

    def register(self, identity: str) -> None:
        """This actor is ready."""
        _store()._internal_kv_put(self.prefix + identity.encode(), b"1")

    def wait(self) -> bool:
        """Return when all are registered, when anyone passed before (after a crash nobody waits), or
        when patience ends (False).
        """
        if self.passed:
            return True
        self.passed = True
        store, deadline = _store(), time.monotonic() + PATIENCE_S
        while not store._internal_kv_exists(self.open_key):
            if len(store._internal_kv_list(self.prefix)) >= self.size or time.monotonic() > deadline:
                complete = time.monotonic() <= deadline
                store._internal_kv_put(self.open_key, b"1")
                return complete
            time.sleep(LOOK_EVERY_S)
        return True

    def registered(self) -> int:
        """How many actors have registered so far."""
        return len(_store()._internal_kv_list(self.prefix))


def _store() -> Any:
    from ray.experimental import internal_kv

    return internal_kv
