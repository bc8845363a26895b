"""The commands `compare`, `claims` and `report`: output, JSON, and one line for what is wrong."""

import json

import pytest
from typer.testing import CliRunner

from attnbench.cli.main import application
from attnbench.errors import UsageError
from tests.claims.written import paired, write


def run(*words):
    result = CliRunner().invoke(application(), [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def results(tmp_path):
    write(
        tmp_path,
        "s",
        paired({"dropout": (0.02, 0.004), "attentiondrop_hard": (0.03, 0.004)}, "softmax", 6, level=0.95),
    )
    return tmp_path


def test_compare_as_json_holds_intervals_p_values_and_decisions(results):
    answer = json.loads(run("compare", "s", "--results", results, "--json").stdout)
    row = next(row for row in answer["arms"] if row["arm"] == "dropout")
    assert row["decision"] == "better" and row["difference"]["low"] > 0 and row["p_holm"] < 0.05
    assert answer["intervals"] == "95 % t over seeds, unadjusted"


def test_claims_list_as_json_has_id_name_and_arxiv():
    listed = json.loads(run("claims", "list", "--json").stdout)
    assert {"AD-OV-1", "AD-GV-2", "AD-ROB-1", "LAM-OV-1"} <= {claim["id"] for claim in listed}
    assert all(claim["name"] and claim["arxiv"] for claim in listed)


def test_verdicts_print_where_the_papers_figure_was_read_and_how_to_repeat(results):
    text = run("claims", "verify", "AD-ACC-1", "--from-sweep", "s", "--results", results).stdout
    assert "reproduced" in text and "second-hand" in text
    assert f"reproduce: attnbench claims verify AD-ACC-1 --from-sweep s --results {results}" in text
    assert "AD-ACC-1" in run("claims", "verdicts", "--results", results).stdout
    rows = json.loads(run("claims", "verdicts", "--json", "--results", results).stdout)
    assert [row["claim"] for row in rows] == ["AD-ACC-1"] and rows[0]["label"] == "reproduced"


def test_a_plan_says_hours_and_what_its_seeds_can_see_and_writes_no_verdict(tmp_path):
    text = run("claims", "verify", "attentiondrop", "--plan", "--seeds", 20, "--results", tmp_path).stdout
    assert "20 seeds see" in text and "trials, about" in text and "AD-TH-1: not_testable" in text
    assert "no verdicts yet" in run("claims", "verdicts", "--results", tmp_path).stdout


def test_report_prints_its_path(results, tmp_path):
    text = run("report", "--out", tmp_path / "r.html", "--results", results).stdout
    assert text.strip() == f"report: {(tmp_path / 'r.html').resolve()}"


@pytest.mark.parametrize(
    "words",
    [("compare", "t"), ("compare", "s", "--metric", "test_acuracy"), ("compare", "s", "--baseline", "sofmax"),
     ("compare", "s", "--mixed", "colour"), ("claims", "verify", "AD-XX-1"),
     ("claims", "verify", "lam", "--tier", "tpu"),
     ("report", "--sweep", "t")],
)  # fmt: skip
def test_what_is_wrong_is_one_line(results, words):
    with pytest.raises(UsageError) as refusal:
        run(*words, "--results", results)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300
