"""list, show and check, as a user calls them."""

import json

import pytest
from typer.testing import CliRunner

from attnbench.cli.main import application
from attnbench.errors import UsageError

MINE = '''
from attnbench.attention import Mechanism


class Louder(Mechanism):
    """Doubles the logits before the softmax: logits' = 2 logits, of shape (B,H,N,M). Costs one product "
    "per entry."""

    name = "louder"
    summary = "doubles the logits"

    def bias(self, c, logits):
        return 2 * logits


class Leaky(Louder):
    name = "leaky"

    def bias(self, c, logits):
        return logits + logits.mean((0, -1), keepdim=True) * logits
'''


def run(*arguments):
    return CliRunner().invoke(application(), list(arguments))


@pytest.mark.parametrize(
    ("what", "known"), [("attention", "softmax"), ("workloads", "digits"), ("hosts", "encoder")]
)
def test_lists_are_tables_or_json_arrays(what, known):
    rows = json.loads(run("list", what, "--json").stdout)
    assert known in [row["name"] for row in rows]
    assert all("arxiv" in row for row in rows)
    assert known in run("list", what).stdout


def test_jobs_are_listed_by_their_first_comment(tmp_path):
    (tmp_path / "quick.yaml").write_text("# A sweep of a minute\nsweep: quick\n")
    (row,) = json.loads(run("list", "jobs", "--json", "--jobs", str(tmp_path)).stdout)
    assert row == {
        "name": "quick",
        "arxiv": None,
        "path": str(tmp_path / "quick.yaml"),
        "summary": "A sweep of a minute",
    }
    with pytest.raises(UsageError, match="there is no folder"):
        raise run("list", "jobs", "--jobs", str(tmp_path / "none")).exception


def test_an_unknown_list_is_refused():
    with pytest.raises(
        UsageError, match="list takes one of attention, workloads, hosts, claims, jobs, not 'mechanism'"
    ):
        raise run("list", "mechanism").exception


def test_show_tells_equations_parameters_paper_and_draws_the_map():
    text = run("show", "attentiondrop_blur", "--length", "12").stdout
    for part in ("2504.12088", "sigma_max", "Uniform(0, sigma_max)", "softmax", "█"):
        assert part in text
    described = json.loads(run("show", "lam", "--json").stdout)
    assert described["arxiv"] == "2406.02761"
    assert described["parameters"]["combine"]["default"] == "multiply"
    with pytest.raises(UsageError, match="did you mean relaxed"):
        raise run("show", "relax").exception


def test_every_mechanism_can_be_shown():
    for row in json.loads(run("list", "attention", "--json").stdout):
        result = run("show", row["name"], "--length", "9")
        assert result.exit_code == 0 and row["name"] in result.stdout


def test_check_passes_a_good_mechanism_and_fails_a_bad_one_by_name(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    good = run("check", f"{path}:Louder")
    assert good.exit_code == 0, good.stdout
    bad = run("check", f"{path}:Leaky", "--json")
    assert bad.exit_code == 1
    failed = {row["name"] for row in json.loads(bad.stdout) if row["outcome"] == "failed"}
    assert {"future_never_changes_the_output", "examples_of_a_batch_do_not_see_each_other"} <= failed
    assert "FAIL" in run("check", f"{path}:Leaky").stdout


def test_check_takes_parameters():
    assert run("check", "dropout", "--set", "p=0.5").exit_code == 0
    with pytest.raises(UsageError, match="dropout: parameter 'p' is 2"):
        raise run("check", "dropout", "--set", "p=2").exception
    with pytest.raises(UsageError, match="--set p: write KEY=VALUE"):
        raise run("check", "dropout", "--set", "p").exception
