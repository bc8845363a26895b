"""One trial: a pure function of its configuration that ends as one row, however it ends.

    result = run_trial(TrialConfig.parse({...}), sink)

Trial does the same one evaluation interval at a time, so that a scheduler can stop it between two. At each
evaluation step rows are flushed, then the checkpoint is written, then the report is returned; a killed
trial made anew with the same sink and checkpoints replays the reports up to its checkpoint and goes on to
the very figures of an undisturbed run.
"""

import math
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from attnbench.errors import UsageError
from attnbench.results import MemorySink, Sink
from attnbench.training.checkpoint import Folder
from attnbench.training.config import KeepAt, TrialConfig
from attnbench.training.environment import git_version
from attnbench.training.loop import Loop
from attnbench.training.outcome import Diverged, TrialResult, status_of
from attnbench.training.process import choose_device, join_group
from attnbench.training.rows import QUALITY, final_row, report_of

FLUSH_S = 5.0
"""Step rows become durable at least this often, so that a running trial can be watched."""


class Trial:
    """A trial that advances one evaluation interval at a time.

    sink: where its rows go (None: memory); with several workers every one makes a Trial and only the first
    one's sink is
    used. checkpoints: root folder of checkpoints, None for none. device: None chooses by resources.gpus.
    replay: whether
    `advance` first returns the reports that were recorded before the checkpoint.

    Divergence, lack of memory and errors of a mechanism become a final row; nothing but KeyboardInterrupt
    and the like escapes.
    """

    def __init__(
        self,
        config: TrialConfig,
        sink: Sink | None = None,
        checkpoints: str | Path | None = None,
        device: torch.device | str | None = None,
        *,
        replay: bool = True,
    ) -> None:
        begun = time.perf_counter()
        self.config = config
        self.sink: Sink = sink if sink is not None else MemorySink(config.sweep, config.trial_id)
        self.folder = Folder(None if checkpoints is None else Path(checkpoints), config)
        self.result: TrialResult | None = None
        self.loop: Loop | None = None
        self._val: dict[str, float] = {}
        self._best: float | None = None
        self._train_loss: float | None = None
        self._replay: deque[dict[str, Any]] = deque()
        self._begun_at: datetime | None = None
        self._code_changed = False  # since the checkpoint
        self._wall_s = self._busy_s = self._setup_s = 0.0  # of earlier processes
        self._begun: float | None = None  # first instruction in this process
        self._entered: float | None = None  # of the `advance` that is under way
        self.peak_bytes: int | None = None
        self._last: dict[str, Any] | None = None  # the report with done = True
        try:
            self._set_up(None if device is None else torch.device(device), replay)
        except Exception as error:
            self._end(*status_of(error))
        self._setup_s += time.perf_counter() - begun

    def _set_up(self, device: torch.device | None, replay: bool) -> None:
        device = device or choose_device(self.config.resources.gpus)
        rank, workers = join_group(device)
        if workers != self.config.resources.workers:
            raise UsageError(f"resources.workers is {self.config.resources.workers}, but {workers} take part")
        if workers > 1:
            dist.barrier()  # the first worker may still be writing what all read now
        state = self.folder.find(self.sink.attempt)
        if rank:
            self.sink = MemorySink(self.config.sweep, self.config.trial_id, self.sink.attempt)
            self.folder.path = None
        self.loop = Loop(self.config, device, state)
        self.sink.cut(self.loop.done)
        recorded = [self.sink.recorded() if state is not None and replay else []]
        if workers > 1:
            dist.broadcast_object_list(recorded, device=device)
        self._replay.extend(report_of(self.config, row) for row in recorded[0])
        if state is not None:
            self._val, self._best, self._train_loss = state["val"], state["best"], state["train_loss"]
            self._code_changed = state["git_hash"] != git_version()[0]
            self._begun_at = datetime.fromtimestamp(state["begun_at"], UTC)
            self._wall_s, self._busy_s, self._setup_s = state["wall_s"], state["busy_s"], state["setup_s"]

    def advance(self) -> dict[str, Any]:
        """Train to the next evaluation and return its report; on the last one, test and write the final row.

        Keys: trial_id, step, epoch, seconds, train_loss, val_<metric>..., status ("running" or how it
        ended), error, done.
        """
        if self._replay and self.result is None:
            return self._replay.popleft()
        if self._last is not None:
            return self._last
        if self.result is not None:
            return self._report()
        self._entered = time.perf_counter()
        if self._begun is None:
            self._begun = self._entered
        self._begun_at = self._begun_at or datetime.now(UTC)
        try:
            finished = self._interval()
            if finished:
                self._finish()
            else:
                self._save()
        except Exception as error:
            self._end(*status_of(error))
        self._busy_s += time.perf_counter() - self._entered
        self._entered = None
        return self._report()

    def _interval(self) -> bool:
        """Steps up to the next evaluation, and that evaluation; whether the trial is through."""
        loop, train = self.loop, self.config.train
        assert loop is not None
        cadence = train.eval_every * loop.steps_per_unit if train.eval_every else loop.total
        goal = min(loop.total, (loop.done // cadence + 1) * cadence)
        gradients = self.config.measure.gradients
        keep_at = (
            {at * loop.steps_per_unit: at for at in train.keep.at} if isinstance(train.keep, KeepAt) else {}
        )
        rows: list[dict[str, Any]] = []
        losses = []
        flushed = time.perf_counter()
        while loop.done < goal:
            row = loop.step()
            row["seconds"] = self.seconds
            if not math.isfinite(row["loss"]):
                self.sink.steps([*rows, row])
                raise Diverged(f"the training loss is {row['loss']} at step {loop.done}")
            losses.append(row["loss"])
            if gradients is not None and loop.done % gradients.every == 0:
                found = loop.gradient_rows()
                self.sink.gradients(found)
                row["grad_variance"] = found[-1]["trace_total"]
            if loop.done in keep_at:
                self.folder.keep(f"at-{keep_at[loop.done]}", loop.engine.weights(), loop.done)
            rows.append(row)
            if time.perf_counter() - flushed > FLUSH_S:
                self.sink.steps(rows)
                self.sink.flush()
                rows, flushed = [], time.perf_counter()
        self._train_loss = sum(losses) / len(losses) if losses else self._train_loss
        if self.peak_bytes is None or loop.device.type == "cuda":
            self.peak_bytes = loop.peak_bytes()
        val = loop.evaluate("val")
        self._val = {f"val_{name}": value for name, value in val.items()}
        at = {"step": loop.done, "epoch": loop.done / loop.steps_per_epoch, "seconds": self.seconds}
        rows.append(
            {**at, "split": "val", **{n: val[n] for n in QUALITY if n in val}, "peak_bytes": self.peak_bytes}
        )
        self.sink.steps(rows)
        if not math.isfinite(val["loss"]):
            raise Diverged(f"the validation loss is {val['loss']} at step {loop.done}")
        if train.keep == "best":
            self._keep_best(val[loop.workload.metric])
        return loop.done >= loop.total or (train.stop is not None and train.stop.reached(self._val))

    def _keep_best(self, value: float) -> None:
        assert self.loop is not None
        sign = 1 if self.loop.workload.direction == "max" else -1
        if self._best is None or sign * value > sign * self._best:
            self._best = value
            self.folder.keep("best", self.loop.engine.weights(), self.loop.done)

    def _finish(self) -> None:
        """The test part, used once; robustness; the final row."""
        loop = self.loop
        assert loop is not None
        self.sink.flush()
        test = {f"test_{name}": value for name, value in loop.evaluate("test").items()}
        self.sink.robustness(loop.robustness_rows())
        if self.config.train.keep == "last":
            self.folder.keep("last", loop.engine.weights(), loop.done)
        self._end("ok", None, test)

    def save(self) -> None:
        """Write rows and checkpoint now, as every evaluation does."""
        if self.result is None and self.loop is not None:
            self._save()

    def _save(self) -> None:
        assert self.loop is not None and self._begun_at is not None
        self.sink.flush()
        self.folder.save(
            self.sink.attempt,
            {
                **self.loop.state(),
                "val": self._val,
                "best": self._best,
                "train_loss": self._train_loss,
                "begun_at": self._begun_at.timestamp(),
                "wall_s": self.wall_s,
                "busy_s": self.seconds,
                "setup_s": self._setup_s,
                "git_hash": git_version()[0],
            },
        )

    def stop(self) -> dict[str, Any]:
        """End as "stopped" with what was reached; the test part is not touched. Returns the last report."""
        if self._last is not None:
            return self._last
        if self.result is None:
            self._replay.clear()
            self._end("stopped", None)
        return self._report()

    def close(self) -> None:
        """Let go of the engine. A trial that has not ended can go on later from its checkpoint."""
        if self.loop is not None:
            self.loop.destroy()
            self.loop = None

    @property
    def seconds(self) -> float:
        """Seconds spent in training and evaluation, summed over resumes."""
        return self._busy_s + (time.perf_counter() - self._entered if self._entered is not None else 0.0)

    @property
    def wall_s(self) -> float:
        """Seconds from the first to the latest instruction of training, summed over processes."""
        return self._wall_s + (time.perf_counter() - self._begun if self._begun is not None else 0.0)

    def _end(self, status: str, error: str | None, test: dict[str, float] | None = None) -> None:
        """Write the final row, once; the checkpoint is needed no longer."""
        row = final_row(
            self.config,
            self.loop,
            status=status,
            error=error,
            begun_at=self._begun_at,
            wall_s=self.wall_s,
            setup_s=self._setup_s,
            busy_s=self.seconds,
            figures={
                "train_loss": self._train_loss,
                "peak_bytes": self.peak_bytes,
                **self._val,
                **(test or {}),
            },
        )
        if self._code_changed:
            row["git_dirty"] = True
        self.sink.final(row)
        self.folder.discard()
        self.result = TrialResult(status, error, row)

    def _report(self) -> dict[str, Any]:
        ended = self.result
        at = (
            {"step": 0, "epoch": 0}
            if self.loop is None
            else {
                "step": self.loop.done,
                "epoch": self.loop.done / self.loop.steps_per_epoch,
            }
        )
        report = report_of(self.config, {**at, "seconds": self.seconds})
        report |= {"train_loss": self._train_loss, **self._val}
        if ended is not None:
            report |= {
                key: value
                for key, value in ended.row.items()
                if key.startswith("test_") and value is not None
            }
            report |= {"status": ended.status, "error": ended.error, "done": True}
            self._last = report
        return report


def run_trial(
    config: TrialConfig,
    sink: Sink | None = None,
    checkpoints: str | Path | None = None,
    device: torch.device | str | None = None,
) -> TrialResult:
    """Run a trial to its end, going on from its checkpoint if there is one; see Trial."""
    trial = Trial(config, sink, checkpoints, device, replay=False)
    try:
        while trial.result is None:
            trial.advance()
        return trial.result
    finally:
        trial.close()
