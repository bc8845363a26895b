"""What a trial writes is what others read, through kills, resumes, retries and compaction."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnbench.errors import UsageError
from attnbench.results import MemorySink, ParquetSink, Store, load
from attnbench.results.compaction import compact
from attnbench.results.layout import loose_files
from attnbench.results.querying import answer
from tests.results.rows import final_row, request_rows, train_rows, val_row, write_trial


def scalar(store: Store, sql: str) -> object:
    return next(answer(store.path, sql)[1])[0]


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_trial(store, "s", "t1", accuracy=0.123456789012345)
    assert store.finals("s")["t1"]["test_accuracy"] == 0.123456789012345
    assert store.finals("s")["t1"]["attention"] == '[{"name":"softmax"}]'
    assert [row["accuracy"] for row in store.reports("s", "t1")] == [0.5, 0.75]
    frame = load("steps", results=tmp_path, sweep="s")
    assert len(frame) == 102 and frame.loss[frame.split == "train"].tolist() == [
        1 / (1 + i) for i in range(100)
    ]
    assert frame.grad_norm.isna().all()


def test_nothing_is_visible_before_a_flush_and_everything_after(tmp_path: Path) -> None:
    store = Store(tmp_path)
    sink = store.sink("s", "t1")
    sink.steps(train_rows(0, 10))
    assert store.rows("steps", "s") == []
    sink.flush()
    assert len(store.rows("steps", "s")) == 10


def test_an_unknown_column_or_a_wrong_type_is_an_error_that_names_it(tmp_path: Path) -> None:
    sink = Store(tmp_path).sink("s", "t1")
    with pytest.raises(ValueError, match="table steps has no column 'stpe'"):
        sink.steps([{"stpe": 1}])
    sink.steps([{"step": "three", "split": "train"}])
    with pytest.raises(ValueError, match="column step"):
        sink.flush()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.one_of(st.integers(1, 30), st.just("flush"), st.just("reopen"), st.just("cut")), max_size=14),
    st.integers(5, 40),
)
def test_any_order_of_writes_flushes_kills_and_cuts_leaves_the_rows_of_a_list(
    tmp_path_factory: pytest.TempPathFactory, actions: list, segment_rows: int
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    sink = ParquetSink(store.path, "s", "t1", segment_rows=segment_rows)
    written, durable = 0, 0
    for action in actions:
        if action == "flush":
            sink.flush()
            durable = written
        elif action == "reopen":  # a kill: what was buffered is gone
            sink = ParquetSink(store.path, "s", "t1", segment_rows=segment_rows)
            written = durable
        elif action == "cut":
            written = durable = durable // 2
            sink.cut(durable - 1)
        else:
            sink.steps(train_rows(written, written + action))
            written += action
        assert sorted(row["step"] for row in store.rows("steps", "s")) == list(range(durable))
    sink.final(final_row())
    assert sorted(row["step"] for row in store.rows("steps", "s")) == list(range(written))
    assert scalar(store, "select count(*) from steps") == written


def test_the_memory_sink_means_the_same(tmp_path: Path) -> None:
    stored, held = Store(tmp_path).sink("s", "t1"), MemorySink("s", "t1")
    for sink in (stored, held):
        sink.steps([*train_rows(0, 50), val_row(49, 0.5)])
        sink.flush()
        sink.steps([*train_rows(50, 100), val_row(99, 0.75)])
        sink.robustness([{"kind": "noise", "accuracy": 0.1}])
        sink.flush()
        sink.cut(60)
        sink.robustness([{"kind": "noise", "accuracy": 0.2}])
        sink.final(final_row())
    assert stored.recorded() == held.recorded()
    store = Store(tmp_path)
    for table in ("steps", "robustness", "trials"):
        rows = [{k: v for k, v in row.items() if k != "sweep"} for row in store.rows(table, "s")]
        assert [row.keys() for row in rows] == [row.keys() for row in held.tables[table]]
        assert [row.get("step") for row in rows] == [row.get("step") for row in held.tables[table]]
    assert store.rows("robustness")[0]["accuracy"] == held.tables["robustness"][0]["accuracy"] == 0.2


def test_the_highest_attempt_counts_and_an_unfinished_one_does_not_hide_an_earlier_final_row(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    assert store.next_attempt("s", "t1") == 1
    write_trial(store, "s", "t1", status="failed", error="boom", accuracy=None)
    store.sink("s", "t1", 1).robustness([])
    assert store.next_attempt("s", "t1") == 2
    again = store.sink("s", "t1", 2)
    again.steps(train_rows(0, 5))
    again.flush()
    assert store.attempts("s") == {"t1": 2}
    assert store.finals("s")["t1"]["status"] == "failed"
    assert scalar(store, "select count(*) from steps") == 5
    again.final(final_row(accuracy=0.9))
    assert scalar(store, "select string_agg(status) from trials") == "ok"
    assert len(store.rows("steps", "s", attempt=1)) == 102


def test_side_tables_of_a_failed_attempt_do_not_stand_beside_the_next_attempts_final_row(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    first = store.sink("s", "t1", 1)
    first.robustness([{"kind": "noise", "accuracy": 0.1}])
    first.final(final_row(status="failed"))
    store.sink("s", "t1", 2).final(final_row(status="out_of_memory"))
    assert scalar(store, "select count(*) from robustness") == 0


def test_an_attempt_ends_once_and_later_figures_are_added_beside_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_trial(store, "s", "t1", accuracy=0.9)
    late = store.sink("s", "t1", 1)
    late.final(final_row(accuracy=0.1))
    late.robustness([{"kind": "pgd", "accuracy": 0.2}])
    late.flush()
    compact(store.path, least=1, grace_s=0)
    late.robustness([{"kind": "pgd", "accuracy": 0.3}])
    late.flush()
    store.sink("s", "t1", 1).final(final_row(accuracy=0.1))
    assert [row["test_accuracy"] for row in store.rows("trials")] == [0.9]
    assert sorted(row["accuracy"] for row in store.rows("robustness")) == [0.2, 0.3]


def test_requests_are_added_once_and_keep_their_first_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.request("s", request_rows("a", "b"))
    first = {row["trial_id"]: row["requested_at"] for row in store.rows("requests", "s")}
    store.request("s", request_rows("b", "c"))
    second = {row["trial_id"]: row["requested_at"] for row in store.rows("requests", "s")}
    assert set(second) == {"a", "b", "c"} and all(second[name] == first[name] for name in first)


def test_tables_that_no_trial_writes_can_be_replaced_and_added_to(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for label in ("inconclusive", "reproduced"):
        store.append("verdicts", "s", "AD-OV-1", [{"claim": "AD-OV-1", "label": label}])
    assert [row["label"] for row in store.rows("verdicts")] == ["inconclusive", "reproduced"]
    store.replace("verdicts", "s", "AD-OV-1", [{"claim": "AD-OV-1", "label": "refuted", "trials": ["t1"]}])
    assert [(row["label"], row["trials"]) for row in store.rows("verdicts")] == [("refuted", '["t1"]')]


def test_compaction_changes_no_answer_and_leaves_few_files(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for index in range(12):
        write_trial(store, f"s{index % 2}", f"t{index}", accuracy=index / 100, seed=index)
    write_trial(store, "s0", "t0", attempt=2, accuracy=0.5)
    running = store.sink("s0", "alive")
    running.steps(train_rows(0, 7))
    running.flush()
    questions = [
        "select sweep, trial_id, attempt, step, split, loss from steps order by all",
        "select sweep, trial_id, attempt, test_accuracy from trials order by all",
        "select * from leaderboard order by all",
    ]
    before = [list(answer(tmp_path, sql)[1]) for sql in questions]
    absorbed = compact(tmp_path, least=1, grace_s=0)
    assert absorbed["steps"] == 12 and absorbed["trials"] == 12
    assert [list(answer(tmp_path, sql)[1]) for sql in questions] == before
    compact(tmp_path, least=1000, grace_s=0)  # the grace of what was absorbed is over
    assert [list(answer(tmp_path, sql)[1]) for sql in questions] == before
    assert {file.key for file in loose_files(tmp_path, "steps")} == {"alive"}
    assert store.attempts("s0")["t0"] == 2 and store.reports("s0", "t2")[-1]["accuracy"] == 0.75
    write_trial(store, "s1", "t1", attempt=2, accuracy=0.99)  # hides what the merged file holds of attempt 1
    assert (
        scalar(store, "select max(test_accuracy) from trials where trial_id = 't1' and sweep = 's1'") == 0.99
    )
    assert scalar(store, "select count(*) from steps where trial_id = 't1'") == 102
    assert len(store.rows("trials", "s1")) == 6
    for round_ in range(10):  # merged files are merged again before there are many
        write_trial(store, "s0", f"later{round_}")
        compact(tmp_path, least=1, grace_s=0)
    compact(tmp_path, least=1000, grace_s=0)
    assert len(list((tmp_path / "steps/sweep=s0/_compacted").iterdir())) <= 8
    assert scalar(store, "select count(*) from trials where sweep = 's0'") == 16
    assert (
        scalar(
            store,
            "select count(*) from (select trial_id, step, split from steps group by all having count(*) > 1)",
        )
        == 0
    )


def test_an_old_files_missing_columns_are_null_and_a_newer_files_extra_ones_are_left_out(
    tmp_path: Path,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    store = Store(tmp_path)
    write_trial(store, "s", "t1")
    path = next(file.path for file in loose_files(tmp_path, "trials"))
    content = pq.ParquetFile(path).read()
    older = content.drop_columns(["test_ece", "pid"]).replace_schema_metadata(
        {"attnbench_schema": "trials:0"}
    )
    newer = content.append_column("colour", pa.array(["red"])).replace_schema_metadata(
        {"attnbench_schema": "trials:2"}
    )
    for name, table in (("old", older), ("new", newer)):
        table = table.set_column(0, "trial_id", pa.array([name]))
        pq.write_table(table, tmp_path / f"trials/sweep=s/{name}-1-0-1.parquet")
    columns, rows = answer(tmp_path, "select * from trials order by trial_id")
    assert "colour" not in columns
    assert [(row[1], row[columns.index("test_ece")], row[columns.index("status")]) for row in rows] == [
        ("new", None, "ok"), ("old", None, "ok"), ("t1", None, "ok"),
    ]  # fmt: skip
    assert set(store.finals("s")) == {"new", "old", "t1"}


def test_a_deleted_sweep_is_gone_and_the_others_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_trial(store, "a", "t1")
    write_trial(store, "b", "t1")
    compact(tmp_path, least=1, grace_s=0)
    write_trial(store, "a", "t2")
    (tmp_path / "checkpoints/a/t1").mkdir(parents=True)
    assert store.delete("a") > 0
    assert store.sweeps() == ["b"] and not (tmp_path / "checkpoints/a").exists()
    assert scalar(store, "select count(*) from steps") == 102
    with pytest.raises(UsageError, match=r"no sweep .a.*there are b"):
        store.delete("a")


def test_an_exported_sweep_answers_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    write_trial(store, "a", "t1", status="failed")
    compact(store.path, least=1, grace_s=0)
    write_trial(store, "a", "t1", attempt=2)
    store.request("a", request_rows("t1"))
    write_trial(store, "b", "t9")
    counts = store.export("a", tmp_path / "copy")
    assert counts == {"trials": 1, "steps": 102, "requests": 1}
    for table in ("trials", "steps", "requests"):
        sql = f"select * from {table} where sweep = 'a' order by all"
        assert list(answer(store.path, sql)[1]) == list(answer(tmp_path / "copy", sql)[1])
    with pytest.raises(UsageError, match="not an empty folder"):
        store.export("a", tmp_path / "copy")


def test_a_folder_that_cannot_be_written_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "results", Path("/proc/results")):
        with pytest.raises(UsageError, match="cannot be"):
            Store(path).ensure_writable()
    Store(tmp_path / "new" / "results").ensure_writable()
    assert list((tmp_path / "new" / "results").iterdir()) == []


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "_compacted", "x=1/y"])
def test_a_sweep_that_cannot_name_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a folder"):
        Store(tmp_path).sink(name, "t1")
