"""Queries: what they answer, what they refuse, and that nothing they do changes a result."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest
from scipy import stats

from attnbench.errors import UsageError
from attnbench.results import Store, load
from attnbench.results.layout import loose_files
from attnbench.results.querying import answer, only_select
from attnbench.results.schemas import TABLES
from attnbench.results.views import VIEWS, t_quantile
from tests.results.rows import final_row, request_rows, train_rows, write_trial

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds with two folds of softmax, and of alibi with two learning rates; a trial that diverged."""
    store = Store(tmp_path_factory.mktemp("results"))
    arms = [("softmax", 0.001, 0.0), ("alibi", 0.001, 0.05), ("alibi", 0.003, 0.02)]
    for arm, lr, gain in arms:
        for seed in (0, 1):
            for fold in (0, 1):
                row = {
                    "arm": arm, "seed": seed, "fold": fold, "accuracy": 0.8 + gain + 0.02 * seed + 0.1 * fold,
                    "train": {"epochs": 2, "batch": 64, "grad_accum": 1, "lr": lr},
                }  # fmt: skip
                write_trial(store, "s", f"{arm}{int(lr * 1000)}{seed}{fold}", steps=10, **row)
    write_trial(store, "s", "lam0", arm="lam", status="diverged", accuracy=None, error="loss became nan")
    store.request("s", request_rows("alibi100", "asleep", "alive"))
    alive = store.sink("s", "alive")
    alive.steps(train_rows(0, 7))
    alive.flush()
    return store.path


def objects(results: Path, sql: str) -> list[dict]:
    columns, rows = answer(results, sql)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def checksum(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(path).encode() + path.read_bytes() for path in files)).hexdigest()


ATTACKS = [
    "copy (select 1) to '{file}' (format parquet, use_tmp_file false)",
    "copy trials to '{folder}/evil.parquet'",
    "explain analyze copy (select 1) to '{file}' (format parquet, use_tmp_file false)",
    "explain copy (select 1) to '{file}'",
    "select 1; copy (select 1) to '{file}' (format parquet, use_tmp_file false)",
    "with x as (select 1) insert into trials select * from x",
    "create table t as select 1",
    "create or replace view trials as select 1",
    "drop view trials",
    "attach '{folder}/evil.db'",
    "attach ':memory:' as m",
    "export database '{folder}/evil'",
    "install httpfs",
    "load httpfs",
    "set enable_external_access = true",
    "reset lock_configuration",
    "pragma memory_limit='100GB'",
    "call force_checkpoint()",
    "select * from read_csv('/etc/passwd')",
    "select * from read_text('/etc/passwd')",
    "from '/etc/passwd'",
    "from read_parquet('{folder}/../../etc/x.parquet')",
    "select * from glob('/etc/*')",
    "select * from query('copy (select 1) to ''{file}''')",
    "select * from 'https://example.org/x.parquet'",
    "pivot trials on arm",
    "",
    "select",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_not_one_select_over_the_results_is_refused_in_one_line_and_changes_nothing(
    results: Path, attack: str
) -> None:
    before = checksum(results)
    file = next(loose_files(results, "trials")).path
    with pytest.raises(UsageError) as refused:
        answer(results, attack.replace("{file}", file).replace("{folder}", str(results)))
    assert "\n" not in str(refused.value)
    assert checksum(results) == before


def test_every_kind_of_reading_statement_is_answered(results: Path) -> None:
    for sql in (
        "from trials",
        "describe trials",
        "show tables",
        "summarize steps",
        "values (1)",
        "select 1 -- x",
        "select 1;",
    ):
        assert list(answer(results, sql)[1])
    assert {row[0] for row in answer(results, "show tables")[1]} == {*TABLES, *VIEWS}


def test_an_empty_folder_has_every_table_and_view_with_its_columns(results: Path, tmp_path: Path) -> None:
    for name in (*TABLES, *VIEWS):
        columns, rows = answer(tmp_path, f"select * from {name}")
        assert list(rows) == [] and columns == answer(results, f"select * from {name} limit 0")[0]
    with pytest.raises(UsageError, match="does not exist"):
        answer(tmp_path / "nowhere", "select 1")


def test_a_misspelt_name_gets_one_line_with_the_right_one(results: Path) -> None:
    for sql, hint in (
        ("select * from trails", "no table or view 'trails'; did you mean 'trials'?"),
        ("select * from nothing_like_it", "there are trials, steps"),
        ("select acuracy from steps", "did you mean 'accuracy'?"),
        ("select foo from trials", 'column "foo" not found in FROM clause!'),
        ("selct 1", 'syntax error at or near "selct"'),
    ):
        with pytest.raises(UsageError) as refused:
            answer(results, sql)
        assert hint in str(refused.value) and "\n" not in str(refused.value)


def test_a_query_is_stopped_at_its_limits_of_time_and_memory(results: Path) -> None:
    started = time.monotonic()
    with pytest.raises(UsageError, match=r"stopped after 0\.5 s"):
        answer(
            results,
            "select count(*) from range(1000000) a, range(1000000) b where a.range * b.range % 7 = 3",
            limit_s=0.5,
        )
    assert time.monotonic() - started < 10
    with pytest.raises(UsageError, match="needs more than 50MB"):
        answer(results, "select list(range) from range(100000000)", memory="50MB")


def test_the_leaderboard_averages_folds_within_a_seed_and_counts_seeds(results: Path) -> None:
    rows = objects(results, "select * from leaderboard where metric = 'test_accuracy'")
    assert [(row["arm"], json.loads(row["train"])["lr"], row["rank"]) for row in rows] == [
        ("alibi", 0.001, 1), ("alibi", 0.003, 2), ("softmax", 0.001, 3),
    ]  # fmt: skip
    assert rows[2]["mean"] == pytest.approx(0.86) and rows[2]["seeds"] == 2 and rows[2]["cost_ratio"] is None
    half_width = stats.t.ppf(0.975, 1) * stats.tstd([0.85, 0.87]) / 2**0.5
    assert rows[2]["half_width"] == pytest.approx(half_width, rel=1e-6)


def test_tuning_runs_are_no_result(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_trial(store, "s", "t1", role="tune", accuracy=0.99)
    write_trial(store, "s", "t2", role="confirm", accuracy=0.5, seed=1000)
    assert [row["mean"] for row in objects(tmp_path, "from leaderboard where metric = 'test_accuracy'")] == [
        0.5
    ]


def test_the_best_configuration_of_an_arm_is_chosen_on_validation(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name, lr, val, test in (("a", 0.1, 0.9, 0.6), ("b", 0.2, 0.7, 0.8)):
        train = {"epochs": 1, "batch": 64, "lr": lr}
        write_trial(store, "s", name, train=train, val_accuracy=val, accuracy=test)
    (best,) = objects(tmp_path, "from best_by_attention")
    assert (best["metric"], best["mean"], best["val_mean"], best["configurations"]) == (
        "test_accuracy",
        0.6,
        0.9,
        2,
    )


def test_cost_comes_from_a_paired_measurement_of_the_same_shape_device_and_path_or_is_null(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    for arm, accuracy in (("softmax", 0.8), ("alibi", 0.9), ("relaxed", 0.7)):
        write_trial(store, "s", arm, arm=arm, accuracy=accuracy)
    sink = store.sink("costs", "c1")
    shape = {
        "batch": 64, "heads": 4, "length": 16, "head_dim": 16, "causal": False,
        "precision": "fp32", "device": "cpu", "threads": 1, "baseline": "softmax", "mode": "forward_backward",
    }  # fmt: skip
    for name, ratio, changes in (
        ("alibi", 1.21, {}), ("alibi", 1.0, {"repeat": 1}), ("relaxed", 1.5, {}),
        ("alibi", 9.0, {"length": 32}), ("alibi", 9.0, {"device": "cuda"}),
        ("alibi", 9.0, {"mode": "step", "shape": {"network": {"width": 8}}}),
        ("alibi", 9.0, {"baseline_path": "eager"}), ("alibi", 9.0, {"path": "flash_cpu"}),
    ):  # fmt: skip
        sink.add("cost_ratios", [{
            "mechanism": name, "attention": [{"name": name}],
            "path": "reference", "baseline_path": "flash_cpu", "repeat": 0, "ratio": ratio,
            **shape, **changes,
        }])  # fmt: skip
    sink.flush()
    found = {row["arm"]: row for row in objects(tmp_path, "from pareto")}
    assert found["alibi"]["cost_ratio"] == pytest.approx(1.1) and found["softmax"]["cost_ratio"] is None
    assert found["alibi"]["on_front"] and found["relaxed"]["on_front"] is False
    assert found["softmax"]["on_front"] is None and found["alibi"]["cost_mode"] == "forward_backward"
    block = {**shape, "mode": "step", "shape": {"network": "block"}, "attention": [{"name": "alibi"}]}
    sink.add("cost_ratios", [{**block, "path": "reference", "baseline_path": "flash_cpu", "ratio": 1.3}])
    sink.flush()
    found = {row["arm"]: row for row in objects(tmp_path, "from pareto")}
    assert (found["alibi"]["cost_ratio"], found["alibi"]["cost_mode"]) == (pytest.approx(1.3), "step")


def test_what_runs_and_what_waits_is_shown_without_what_ended(results: Path) -> None:
    rows = objects(results, "select trial_id, state, step from running order by all")
    assert rows == [
        {"trial_id": "alive", "state": "started", "step": 6},
        {"trial_id": "asleep", "state": "waiting", "step": None},
    ]
    (alive,) = objects(
        results, "select status, workload, count(*) n from curves where trial_id = 'alive' group by all"
    )
    assert alive == {"status": "running", "workload": "digits", "n": 7}


def test_the_t_quantile_is_that_of_students_distribution() -> None:
    rows = duckdb.sql(f"select df, {t_quantile('df')} from range(0, 400) r(df) order by df").fetchall()
    assert rows[0][1] is None
    for df, value in rows[1:]:
        assert value == pytest.approx(stats.t.ppf(0.975, df), abs=2e-5)


@pytest.mark.parametrize("damage", ["truncate", "empty", "text", "footer", "middle"])
def test_a_damaged_file_is_named_in_one_line_and_repair_sets_it_aside(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    for name in ("t1", "t2", "t3"):
        write_trial(store, "s", name, steps=300)
    path = Path(
        next(file.path for file in loose_files(tmp_path, "steps") if file.key == "t2" and file.number == 2)
    )
    content = bytearray(path.read_bytes())
    if damage == "footer":
        content[-2000:-8] = bytes(1992)
    elif damage == "middle":
        content[40:1000] = b"\xff" * 960
    path.write_bytes(
        {"truncate": content[:-50], "empty": b"", "text": b"not parquet, " * 50}.get(damage, content)
    )
    for ask in (
        lambda: answer(tmp_path, "select sum(loss), max(step) from steps"),
        lambda: load("steps", tmp_path),
    ):
        with pytest.raises(UsageError, match="damaged result file") as refused:
            ask()
        assert str(path) in str(refused.value) and "verify --repair" in str(refused.value)
    assert list(answer(tmp_path, "select count(*) from trials")[1]) == [
        (3,)
    ]  # what it does not touch is answered
    assert len(store.verify()) == 1
    (fault,) = store.verify(repair=True)
    assert str(path) in fault and "quarantine" in fault
    assert store.verify() == [] and len(list((tmp_path / "quarantine").rglob("*.parquet"))) == 1
    # the segment's earlier version counts again: the first half of its steps
    assert list(answer(tmp_path, "select trial_id, count(*) from steps group by all order by all")[1]) == [
        ("t1", 302), ("t2", 151), ("t3", 302),
    ]  # fmt: skip


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(BIN / "attnbench"), *map(str, arguments)], capture_output=True, text=True)


def test_every_format_says_the_same(results: Path, tmp_path: Path) -> None:
    sql = "select arm, seed, round(test_accuracy, 3) as test_accuracy from trials where fold = 0"
    sql += " and arm <> 'alibi' order by all"
    expected = [("lam", 0, None), ("softmax", 0, 0.8), ("softmax", 1, 0.82)]
    out = {
        name: command("query", sql, "--results", results, "--format", name)
        for name in ("table", "csv", "json")
    }
    assert all(done.returncode == 0 for done in out.values()), out
    assert out["csv"].stdout == "arm,seed,test_accuracy\nlam,0,\nsoftmax,0,0.8\nsoftmax,1,0.82\n"
    assert [tuple(row.values()) for row in json.loads(out["json"].stdout)] == expected
    assert [line.split() for line in out["table"].stdout.splitlines() if "softmax" in line] == [
        ["softmax", "0", "0.8"], ["softmax", "1", "0.82"],
    ]  # fmt: skip
    done = command(
        "query", sql + " -- x", "--results", results, "--format", "parquet", "--out", tmp_path / "a.parquet"
    )
    assert done.returncode == 0, done.stderr
    assert duckdb.sql(f"from '{tmp_path}/a.parquet'").fetchall() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_errors_on_the_command_line_are_one_line_and_not_exit_code_0(results: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for arguments in (
        ("query", "drop view trials", "--results", results),
        ("query", "select 1", "--results", tmp_path / "none"),
        ("query", "select 1", "--results", tmp_path / "file"),
        ("query", "select 1", "--results", results, "--format", "xml"),
        ("results", "delete", "nothing", "--results", results, "--yes"),
        ("results", "delete", "s", "--results", results),
        ("results", "export", "nothing", "--results", results),
    ):
        done = command(*arguments)
        assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1, (
            arguments,
            done,
        )
        assert done.stderr.startswith("attnbench: ")


def test_a_query_imports_none_of_the_heavy_packages(results: Path) -> None:
    heavy = ["torch", "ray", "pandas", "pyarrow", "numpy", "mlflow"]
    script = (
        "import sys; from attnbench.cli.main import application\n"
        f"try: application()(['query', 'from leaderboard', '--results', {str(results)!r}])\n"
        f"except SystemExit as end: assert end.code == 0\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done


def test_a_statement_keeps_its_text_but_not_its_semicolon() -> None:
    assert only_select("  select 1 as x ; ").split() == ["select", "1", "as", "x"]
    assert final_row()["arm"] == "softmax"
