"""Several workers per trial: one Ray Train TorchTrainer per Tune actor, whose loop serves trials one
after another.

A TorchTrainer takes 20 to 30 s to start, a trial in a running one a tenth of a second more than its
work. The Tune actor is a
proxy: it puts a task on the desk (a small actor), the first worker takes it and broadcasts it to all,
every worker does the same, and the first answers. If a worker dies the group ends, the proxy with it,
and Tune starts another:
the trial goes on from its checkpoint.
"""

import asyncio
import os
import pickle
import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import ray
from ray.experimental import internal_kv
from ray.util.placement_group import get_current_placement_group, remove_placement_group

READY_S = 300.0
END_S = 8.0
LOOK_EVERY_S = 5.0
IDLE_S = int(timedelta(days=7).total_seconds())

TRAIN_SETTINGS = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the default of 2 s is how late a dead worker would be seen
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(READY_S),
}


class Desk:
    """Between the proxy and the first worker: one task, one answer, in turn."""

    def __init__(self) -> None:
        self.tasks: asyncio.Queue[Any] = asyncio.Queue()
        self.answers: asyncio.Queue[Any] = asyncio.Queue()

    async def ask(self, task: Any) -> Any:
        """Put a task, wait for its answer."""
        await self.tasks.put(task)
        return await self.answers.get()

    async def take(self) -> Any:
        """Wait for the next task."""
        return await self.tasks.get()

    async def answer(self, answer: Any) -> None:
        await self.answers.put(answer)


class Group:
    """A bench of several workers (seat.Bench)."""

    def __init__(self, settings: Mapping[str, Any]):
        os.environ.update(TRAIN_SETTINGS)
        self.register = f"attnbench/{settings['pool']}/workers/".encode()
        self._free_what_dead_proxies_held()
        self.desk: Any = ray.remote(num_cpus=0)(Desk).remote()
        self.failure: str | None = None
        self.thread = threading.Thread(target=self._fit, args=(dict(settings),), name="trainer", daemon=True)
        self.thread.start()
        self.held = self._ask(("hello", None), limit_s=READY_S)
        own = str(ray.get_runtime_context().get_actor_id()).encode()
        internal_kv._internal_kv_put(self.register + own, pickle.dumps(self.held))

    def open(self, settings: Mapping[str, Any]) -> None:
        self._ask(("open", dict(settings)))

    def advance(self) -> dict[str, Any]:
        return self._ask(("advance", None))

    def stop(self) -> dict[str, Any]:
        return self._ask(("stop", None))

    def close(self) -> None:
        self._ask(("close", None))

    def end(self) -> None:
        """Let the trainer return: only then does Ray Train free what its workers held."""
        if self.failure is None:
            self.desk.ask.remote(("end", None))
            self.thread.join(END_S)
        remove_placement_group(self.held)

    def _free_what_dead_proxies_held(self) -> None:
        """Placement groups of proxies that were killed stay reserved until the job ends.

        Ray Train's own cleaner finds dead controllers through the dashboard, which a cluster of ours has not.
        """
        for key in internal_kv._internal_kv_list(self.register):
            actor = key.removeprefix(self.register).decode()
            if ray._private.state.actors(actor).get("State") == "DEAD":
                remove_placement_group(pickle.loads(internal_kv._internal_kv_get(key)))
                internal_kv._internal_kv_del(key)

    def _fit(self, settings: dict[str, Any]) -> None:
        """The trainer's whole life; a group that ends by itself takes this process along, and Tune makes
        another.
        """
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from attnbench.sweep.loopback import torch_config

        cpus, gpus = settings["cpus"], settings["gpus"]
        trainer = TorchTrainer(
            serve,
            train_loop_config={"desk": self.desk, "settings": settings},
            torch_config=torch_config("nccl" if gpus else "gloo", IDLE_S),
            scaling_config=ScalingConfig(
                num_workers=settings["workers"],
                use_gpu=bool(gpus),
                resources_per_worker={"CPU": cpus, **({"GPU": gpus} if gpus else {})},
            ),
            run_config=RunConfig(
                name=f"workers-{os.getpid()}",
                storage_path=settings["storage"],
                failure_config=FailureConfig(max_failures=0),
            ),
        )
        try:
            trainer.fit()
            self.failure = "the workers ended"
        except BaseException as error:
            self.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"

    def _ask(self, task: tuple[str, Any], limit_s: float | None = None) -> Any:
        answer, waited = self.desk.ask.remote(task), 0.0
        while True:
            ready, _ = ray.wait([answer], timeout=LOOK_EVERY_S)
            if ready:
                kind, value = ray.get(answer)
                if kind == "error":
                    raise RuntimeError(value)
                return value
            waited += LOOK_EVERY_S
            if self.failure is not None or (limit_s is not None and waited > limit_s):
                # A crash, not a trial's fault: Tune counts it, and gives the trial a new group.
                os._exit(1)


def serve(config: dict[str, Any]) -> None:
    """Every worker's loop: the first asks the desk, all do the same task, the first answers."""
    import torch
    import torch.distributed as dist

    from attnbench.sweep.actor import prepare_process
    from attnbench.sweep.seat import OwnProcess

    desk, settings = config["desk"], config["settings"]
    prepare_process(settings)
    bench = OwnProcess()
    bench.warm_up(settings)
    device = torch.device("cuda", torch.cuda.current_device()) if settings["gpus"] else None
    first = dist.get_rank() == 0
    while True:
        task: list[Any] = [ray.get(desk.take.remote()) if first else None]
        dist.broadcast_object_list(task, src=0, device=device)
        name, value = task[0]
        if name == "end":
            bench.close()
            return
        try:
            answer: Any = None
            if name == "hello":
                answer = get_current_placement_group()
            else:
                answer = getattr(bench, name)(*([value] if value is not None else []))
            outcome = ("ok", answer)
        except Exception as error:
            outcome = ("error", f"{type(error).__name__}: {error}")
        if first:
            ray.get(desk.answer.remote(outcome))
