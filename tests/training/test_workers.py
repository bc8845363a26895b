"""Two gloo workers: the figures of one worker with all the data, at every ZeRO stage; and a resume."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.conftest import HOST

WORKER = """
import json, os, sys
import torch, torch.distributed as dist
torch.set_num_threads(1)
rank, store, given, checkpoints = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
os.environ["LOCAL_RANK"] = "0"
dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
from attnbench.results import MemorySink
from attnbench.training import Trial, TrialConfig
found = []
for stage in (0, 1, 2, 3):
    config = TrialConfig.parse({**given, "deepspeed": {"zero_stage": stage}})
    sink = MemorySink(config.sweep, config.trial_id)
    trial = Trial(config, sink, checkpoints)
    trial.advance()
    trial.close()
    trial = Trial(config, sink, checkpoints)
    while trial.result is None:
        trial.advance()
    trial.close()
    if rank == 0:
        tables = {name: sink.tables[name] for name in ("steps", "gradients", "trials")}
        found.append(json.loads(json.dumps(tables, default=str)))
if rank == 0:
    print(json.dumps(found))
dist.destroy_process_group()
"""

GIVEN = {
    "workload": "digits",
    "host": {**HOST, "width": 32},
    "attention": "alibi",
    "train": {"steps": 4, "batch": 32, "lr": 3e-3, "eval_every": 2, "grad_accum": 2},
    "measure": {"gradients": {"every": 2, "batches": 5, "draws": 2}},
}


def by_two(folder: Path) -> list:
    given = json.dumps({**GIVEN, "resources": {"workers": 2}})
    arguments = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen(
            [*arguments, str(rank), str(folder / "store"), given, str(folder / "c")], stdout=subprocess.PIPE
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    return json.loads(outputs[0].decode().splitlines()[-1])


def test_two_workers_give_the_figures_of_one_at_every_zero_stage(tmp_path):
    from attnbench.results import MemorySink
    from attnbench.training import TrialConfig, run_trial

    sink = MemorySink()
    run_trial(TrialConfig.parse(GIVEN), sink)
    for stage, tables in enumerate(by_two(tmp_path)):
        (row,) = tables["trials"]
        assert (row["status"], row["workers"], row["zero_stage"]) == ("ok", 2, stage), row["error"]
        assert row["test_loss"] == pytest.approx(sink.tables["trials"][0]["test_loss"], rel=1e-3)
        assert len(tables["steps"]) == len(sink.tables["steps"])
        for two, one in zip(tables["steps"], sink.tables["steps"], strict=True):
            assert (two["step"], two["split"]) == (one["step"], one["split"])
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        for two, one in zip(tables["gradients"], sink.tables["gradients"], strict=True):
            assert two["layer_group"] == one["layer_group"]
            for column in ("trace_total", "trace_data", "mean_sq_norm", "train_loss"):
                assert two[column] == pytest.approx(one[column], rel=5e-3, abs=1e-7), (stage, column)
