"""A whole measurement, small: complete rows, honest gaps, the command line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attnbench.cli.main import main
from attnbench.cost import CostSpec, run_cost
from attnbench.cost.measure import device_of, threads
from attnbench.errors import UsageError
from attnbench.results import MemorySink, Store
from attnbench.results.schemas import TABLES
from attnbench.training.objectives import build_objective, canonical_objective, settle_passes
from tests.cost.test_subject import BROKEN

SMALL = {"batch": 2, "heads": 2, "length": 12, "head_dim": 4}


def spec(**changes: Any) -> CostSpec:
    base = {"cost": "t", "attention": ["alibi", "dropout"], "shapes": [SMALL], "limit_s": 0.05,
            "modes": ["forward", "step"]}  # fmt: skip
    return CostSpec.model_validate({**base, **changes})


def objective(given: Any, attention: list[dict[str, Any]]) -> tuple[dict[str, Any], Any]:
    written = settle_passes(canonical_objective(given), attention)
    return written, build_objective(written)


@pytest.fixture(scope="module")
def measured() -> tuple[Any, MemorySink]:
    sink = MemorySink("t", "t-1")
    asked = spec(
        attention=["alibi", "dropout", {"attention": "attentiondrop_hard", "objective": "consistency"}],
        repeats=2,
    )
    return run_cost(asked, sink, build_objective=objective), sink


def test_every_pair_of_paths_that_exists_is_one_row_per_repeat(measured: tuple[Any, MemorySink]) -> None:
    rows = measured[1].tables["cost_ratios"][1:]
    found = sorted({(r["mechanism"], r["mode"], r["path"], r["baseline_path"]) for r in rows})
    both = [
        ("flash_cpu", "flash_cpu"),
        ("flash_cpu", "reference"),
        ("reference", "flash_cpu"),
        ("reference",) * 2,
    ]
    tiled = [("tiled" if a == "flash_cpu" else a, b) for a, b in both]
    eager = [pair for pair in both if pair[0] == "reference"]
    assert found == sorted(
        [("alibi", mode, *pair) for mode in ("forward", "step") for pair in both]
        + [("dropout", mode, *pair) for mode in ("forward", "step") for pair in eager]
        + [("attentiondrop_hard", "step", *pair) for pair in tiled]
    )
    assert len(rows) == 2 * len(found)
    assert {row["repeat"] for row in rows} == {0, 1}


def test_rows_are_complete(measured: tuple[Any, MemorySink]) -> None:
    for table in ("cost", "cost_ratios"):
        for row in measured[1].tables[table]:
            empty = {name for name in TABLES[table].stored if row[name] is None}
            assert empty <= {"objective", "contended"}
    for row in measured[1].tables["cost_ratios"]:
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["peak_bytes"] > 0 and row["flops"] > 0
        assert json.loads(row["shape"])["length"] == 12


def test_every_block_behind_a_ratio_is_kept(measured: tuple[Any, MemorySink]) -> None:
    tables = measured[1].tables
    assert len(tables["cost"]) == sum(row["blocks"] for row in tables["cost_ratios"])
    assert {row["order"] for row in tables["cost"]} == {"ABBA", "BAAB"}
    assert all(row["ms"] > 0 and row["baseline_ms"] > 0 for row in tables["cost"])


def test_the_machine_is_measured_against_itself_before_any_mechanism(
    measured: tuple[Any, MemorySink],
) -> None:
    first = measured[1].tables["cost_ratios"][0]
    assert (first["mechanism"], first["path"]) == (first["baseline"], first["baseline_path"])
    assert measured[0].ratios[0]["probe"] and not any(row["probe"] for row in measured[0].ratios[1:])


def test_an_objective_is_a_column_and_only_concerns_steps(measured: tuple[Any, MemorySink]) -> None:
    rows = [r for r in measured[1].tables["cost_ratios"] if r["mechanism"] == "attentiondrop_hard"]
    assert {row["mode"] for row in rows} == {"step"}
    assert json.loads(rows[0]["objective"])["passes"] == "concatenated"
    assert any("objective only changes a step" in skipped.reason for skipped in measured[0].skipped)


def test_what_could_not_be_measured_is_said_with_the_reason(measured: tuple[Any, MemorySink]) -> None:
    gaps = [gap for gap in measured[0].skipped if "no fused form" in gap.reason]
    assert {gap.what.split(",")[0] for gap in gaps} == {"dropout"}
    assert not any(gap.refused for gap in measured[0].skipped)


def test_a_baseline_may_carry_an_objective_or_be_any_mechanism() -> None:
    sink = MemorySink("t", "t")
    asked = spec(
        attention=[{"attention": "attentiondrop_hard", "objective": "consistency"}],
        baseline="attentiondrop_hard", modes=["step"], paths=["reference"], baseline_paths=["reference"],
    )  # fmt: skip
    run_cost(asked, sink, build_objective=objective)
    row = sink.tables["cost_ratios"][-1]
    assert row["baseline"] == "attentiondrop_hard" and row["flops"] == 2 * row["baseline_flops"]


def test_a_mechanism_whose_fused_path_is_wrong_is_never_timed(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(BROKEN.format(value="0.0", when="always"))
    sink = MemorySink("t", "t")
    outcome = run_cost(spec(attention=[f"{file}:Broken", "alibi"], modes=["forward"]), sink)
    assert [gap.refused for gap in outcome.skipped] == [True]
    assert "never timed: output differs" in outcome.skipped[0].reason
    assert {row["mechanism"] for row in sink.tables["cost_ratios"]} == {"softmax", "alibi"}


def test_what_cannot_be_causal_is_refused_before_anything_is_timed() -> None:
    told: list[str] = []
    with pytest.raises(UsageError, match=r"alibbi|causal|host"):
        run_cost(
            spec(host={"kind": "decoder"}),
            MemorySink("t", "t"),
            progress=lambda what, a, b: told.append(what),
        )
    assert told == []


def test_threads_are_put_back_even_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError), threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ValueError
    assert torch.get_num_threads() == before


def test_a_gpu_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        assert device_of(spec(device="cuda")).type == "cuda"
    else:
        with pytest.raises(UsageError, match="torch sees no GPU here"):
            device_of(spec(device="cuda"))
    assert device_of(spec(device="cpu")).type == "cpu"


class Ended:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def attnbench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """The command line, run in this process in an empty folder: a new one imports torch for seconds."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["attnbench", "cost", *arguments])
        try:
            main()
            code: Any = 0
        except SystemExit as ended:
            code = ended.code or 0
        return Ended(code, *capfd.readouterr())

    return command


SPEC = """\
cost: small
attention: [alibi]
shapes: [{batch: 2, heads: 2, length: 12, head_dim: 4}]
modes: [forward]
limit_s: 0.05
"""


def test_the_command_writes_rows_that_a_second_run_supersedes(
    tmp_path: Path, attnbench: Callable[..., Ended]
) -> None:
    (tmp_path / "c.yaml").write_text(SPEC)
    done = attnbench("c.yaml", "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert len(answer["ratios"]) == 5
    shown = attnbench("c.yaml")
    assert "algebra" not in shown.out and "alibi" in shown.out and "95 %" in shown.out
    rows = Store(tmp_path / "results").rows("cost_ratios", "small")
    assert len(rows) == 5 and {row["attempt"] for row in rows} == {2}


def test_a_wrong_file_ends_the_command_in_one_line(tmp_path: Path, attnbench: Callable[..., Ended]) -> None:
    (tmp_path / "c.yaml").write_text(SPEC.replace("alibi", "alibbi"))
    done = attnbench("c.yaml")
    assert done.code == 2
    assert done.err.startswith("attnbench: c.yaml:2: attention[0]") and done.err.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_wrong_fused_path_is_exit_code_one(tmp_path: Path, attnbench: Callable[..., Ended]) -> None:
    (tmp_path / "wrong.py").write_text(BROKEN.format(value="0.0", when="always"))
    (tmp_path / "c.yaml").write_text(SPEC.replace("alibi", "wrong.py:Broken"))
    done = attnbench("c.yaml")
    assert done.code == 1
    assert "never timed" in done.out


def test_a_plan_measures_nothing(tmp_path: Path, attnbench: Callable[..., Ended]) -> None:
    (tmp_path / "c.yaml").write_text(SPEC)
    done = attnbench("c.yaml", "--plan", "--json")
    assert json.loads(done.out)["pairs"] == 4
    assert not (tmp_path / "results").exists()
