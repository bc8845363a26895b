"""The training loop of one trial: its network in the engine, its data, one step at a time, evaluation and
measurements.

A Loop knows nothing of rows on disk, of statuses or of resuming beyond `state` and the `state` it is
given; see trial.py.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from attnbench.attention import Draws
from attnbench.evaluation import evaluate, robustness
from attnbench.memory import peak_bytes
from attnbench.training.batches import Batches, moved
from attnbench.training.config import TrialConfig, canonical_json
from attnbench.training.engine import Engine
from attnbench.training.loss import mostly_ignored, training_loss
from attnbench.training.measuring import batch_loss, shadow_statistics
from attnbench.training.network import build_network, load_workload, shadow_of
from attnbench.training.objectives import build_objective
from attnbench.training.process import join_group, settle
from attnbench.training.schedule import learning_rate
from attnbench.workloads import Split

RESIDENT_BYTES = 2 * 2**30
"""A training part up to this size lies on the GPU whole."""

WARMUP_STEPS = 5
"""Steps of a process that no throughput is taken from."""

CONTENDED = 1.5
"""A trial whose steps take this many times their CPU time shared its cores with something else."""

_peaks: dict[
    str, int
] = {}  # peak of one step by what decides it: deterministic, so trials of a process may share it


class Loop:
    """Training from `state` (None: from the start) to any step; all workers of the process group run the
    same calls."""

    def __init__(
        self, config: TrialConfig, device: torch.device, state: dict[str, Any] | None = None
    ) -> None:
        self.config, self.device = config, device
        train = config.train
        settle(config.seed, config.resources.cpus)
        self.rank, self.workers = join_group(device)
        self.workload = load_workload(config)
        self.objective = build_objective(config.objective)
        network = build_network(config)
        self.length = network.length
        self.parameters = sum(parameter.numel() for parameter in network.parameters())
        owned = network.mechanism_parameter_names()
        self.mechanism_parameters = sum(p.numel() for name, p in network.named_parameters() if name in owned)
        self.forward_flops = float(network.flops())
        if state is not None:
            network.load_state_dict(state["engine"]["weights"], strict=False)
        split = self.workload.split("train")
        self.batches = Batches(self._resident(split), train.batch, config.seed)
        self.sparse = self.workload.signature.causal and mostly_ignored(split.targets)
        per_epoch = self.batches.steps_per_epoch
        self.steps_per_epoch = per_epoch
        self.steps_per_unit = per_epoch if train.unit == "epochs" else 1
        self.total = train.budget * self.steps_per_unit
        self.network = network.to(device).train()
        self.engine = Engine(
            self.network, train, zero_stage=config.deepspeed.zero_stage, workers=self.workers
        )
        self.done = 0
        self.norms: list[float] = []
        self.walls: list[float] = []
        self.cpus: list[float] = []
        self.kernel_path: str | None = None
        self._fresh = 0  # steps that this process has made
        self._clock = time.thread_time if config.resources.cpus == 1 else time.process_time
        self._shadow: nn.Module | None = None
        self._gpu_peak = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        if state is not None:
            self.engine.load(state["engine"])
            self.done = state["done"]
            self.norms, self.walls, self.cpus = (state[key].tolist() for key in ("norms", "walls", "cpus"))
            self.kernel_path = state["kernel_path"]

    def state(self) -> dict[str, Any]:
        """What a later Loop goes on from, as tensors and plain values. All workers must call."""
        times = {
            key: torch.tensor(getattr(self, key), dtype=torch.float64) for key in ("norms", "walls", "cpus")
        }
        return {"engine": self.engine.state(), "done": self.done, "kernel_path": self.kernel_path, **times}

    def step(self) -> dict[str, Any]:
        """One optimiser step; returns its row of the table `steps`, without times since the start."""
        wall, cpu = time.perf_counter(), self._clock()
        train, number = self.config.train, self.done
        micro = self.batches.micro(number, rank=self.rank, workers=self.workers, accumulate=train.grad_accum)
        lr = learning_rate(
            number, total=self.total, peak=train.lr, warmup=train.warmup, schedule=train.schedule
        )

        def loss(model: Any, batch: Split, index: int) -> Tensor:
            draws = Draws(self.config.seed, number, 0, index, self.rank)
            value, output = training_loss(
                model, self._placed(batch), draws, self.objective, sparse=self.sparse
            )
            if self.kernel_path is None:
                self.kernel_path = output.stats.get("path")
            return value

        mean, norm = self.engine.step(micro, loss, lr)
        found = [
            float(value)
            for value in torch.stack([mean.float(), torch.as_tensor(norm).float().to(mean.device)]).tolist()
        ]
        self.done += 1
        self._fresh += 1
        took = time.perf_counter() - wall
        self.norms.append(found[1])
        if self._fresh > WARMUP_STEPS:
            self.walls.append(took)
            self.cpus.append(self._clock() - cpu)
        return {
            "step": self.done,
            "epoch": self.done / self.steps_per_epoch,
            "split": "train",
            "loss": found[0],
            "lr": lr,
            "grad_norm": found[1],
            "samples_per_s": train.batch / took,
            "tokens_per_s": train.batch * self.length / took,
        }

    def evaluate(self, part: str) -> dict[str, float]:
        """Metrics of the current weights on "val" or "test". All workers must call; all get the same."""
        model = self.whole()
        found: list[dict[str, float]] = [{}]
        if self.rank == 0:
            split, metric = self.workload.split(part), self.workload.metric
            size = max(256, self.config.micro_batch)
            with self._apart():
                found = [evaluate(model, split, batch=size, device=self.device, metric=metric)]
        if self.workers > 1:
            dist.broadcast_object_list(found, device=self.device)
        return found[0]

    def robustness_rows(self) -> list[dict[str, Any]]:
        """Rows of the table `robustness` on the test part; on the first worker, the others get none."""
        kinds, model = self.config.measure.robustness, self.whole()
        if not kinds or self.rank:
            return []
        test = self.workload.split("test")
        with self._apart():
            return robustness(model, self.workload, test, kinds, seed=self.config.seed, device=self.device)

    def gradient_rows(self) -> list[dict[str, Any]]:
        """Rows of the table `gradients` at the current weights. All workers must call."""
        asked = self.config.measure.gradients
        assert asked is not None
        loss = batch_loss(
            self.batches.split,
            seed=self.config.seed,
            step=self.done,
            draws=asked.draws,
            micro=self.config.micro_batch,
            device=self.device,
            objective=self.objective,
            sparse=self.sparse,
        )
        with self._apart():
            return shadow_statistics(
                self.shadow(),
                self.engine.weights(),
                self.batches,
                loss,
                step=self.done,
                count=asked.batches,
                draws=asked.draws,
                rank=self.rank,
                workers=self.workers,
            )

    def whole(self) -> nn.Module:
        """A plain float32 network with the current weights: the trained one itself, or the shadow filled
        from it."""
        if self.engine.plain:
            return self.network
        weights = self.engine.weights()
        shadow = self.shadow()
        with torch.no_grad():
            for name, parameter in shadow.named_parameters():
                parameter.copy_(weights[name])
        return shadow

    def shadow(self) -> nn.Module:
        """A second network for measuring, made on first use."""
        if self._shadow is None:
            self._shadow = shadow_of(self.config, self.device)
        return self._shadow

    def peak_bytes(self) -> int:
        """Peak memory of training: on GPU the allocator's; on CPU weights and optimiser state plus the
        allocation events of
        one forward and backward pass over one micro-batch, taken on a network of its own.
        """
        if self.device.type == "cuda":
            self._gpu_peak = max(self._gpu_peak, torch.cuda.max_memory_allocated(self.device))
            return self._gpu_peak
        config = self.config
        decides = {**config.hashed(), "micro": config.micro_batch, "threads": torch.get_num_threads()}
        key = canonical_json(
            {name: value for name, value in decides.items() if name not in ("seed", "train", "fold")}
        )
        key += config.train.precision
        if key not in _peaks:
            shadow = shadow_of(config, self.device).to(self._dtype)
            batch = self._placed(self.batches.split.batch(torch.arange(config.micro_batch)))

            def pass_() -> None:
                loss, _ = training_loss(shadow, batch, Draws(0, 0), self.objective, sparse=self.sparse)
                loss.backward()
                shadow.zero_grad()

            _peaks[key] = peak_bytes(pass_, self.device)
        return self.engine.state_bytes() + _peaks[key]

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Keeps what is measured inside out of the peak memory of training."""
        if self.device.type != "cuda":
            yield
            return
        self.peak_bytes()
        yield
        torch.cuda.reset_peak_memory_stats(self.device)

    def throughput(self) -> dict[str, Any]:
        """Median step time in ms and rates, over steps after warm-up without evaluation; and whether cores
        were shared."""
        if not self.walls:
            return {}
        median = statistics.median(self.walls)
        busy = sum(self.cpus)
        contended = self.device.type == "cpu" and sum(self.walls) > CONTENDED * busy
        batch = self.config.train.batch
        return {
            "step_ms": 1e3 * median,
            "samples_per_s": batch / median,
            "tokens_per_s": batch * self.length / median,
            "contended": contended,
        }

    def destroy(self) -> None:
        """Let go of the engine; the process group stays for the next trial."""
        self.engine.destroy()

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.config.train.precision == "bf16" else torch.float32

    def _resident(self, split: Split) -> Split:
        """The training part where its batches are taken from."""
        size = split.inputs.nbytes + split.targets.nbytes
        return moved(split, self.device) if self.device.type == "cuda" and size <= RESIDENT_BYTES else split

    def _placed(self, batch: Split) -> Split:
        """The batch on the device, in the precision of the weights."""
        if batch.inputs.device != self.device:
            batch = moved(batch, self.device)
        if batch.inputs.is_floating_point() and batch.inputs.dtype != self._dtype:
            batch = Split(batch.inputs.to(self._dtype), batch.targets, batch.key_mask)
        return batch
