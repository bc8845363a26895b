"""The report on rows with a known truth: complete, self-contained, repeatable by the commands it prints."""

import html
import re
import shlex
import xml.etree.ElementTree as ElementTree

import pytest
from typer.testing import CliRunner

from attnbench.claims import verify
from attnbench.cli.main import application
from attnbench.errors import UsageError
from attnbench.report import drawing
from attnbench.report.page import write_report
from attnbench.results import Store
from attnbench.results.querying import answer
from tests.claims.written import paired, trial, write


def complete(results):
    """A sweep with everything that the report shows; dropout is better by two points, hard is undecided."""
    arms = {"dropout": (0.02, 0.004), "attentiondrop_hard": (0.002, 0.02)}
    figures = {"parameters": 1000, "mechanism_parameters": 0, "forward_flops": 2e6, "test_nll": 0.2}
    figures |= {"test_brier": 0.1, "kernel_path": "reference", "train_loss": 0.1, "wall_s": 3.0}
    rows = paired(arms, "softmax", 6, level=0.94, **figures)
    failed = next(row for row in rows if row["arm"] == "attentiondrop_hard")
    failed.update(status="failed", error="RuntimeError: <script>alert(1)</script>", test_accuracy=None)
    write(results, "demo", rows)
    store = Store(results)
    for row in rows:
        sink = store.sink("demo", row["trial_id"], 1)
        val = [
            {"step": 10 * e, "epoch": float(e), "split": "val", "accuracy": 0.5 + 0.04 * e}
            for e in range(1, 6)
        ]
        sink.steps(val)
        common = {"layer_group": "total", "weights_of": "own", "batches": 4, "draws": 2, "mean_sq_norm": 1.0}
        sink.gradients(
            [{**common, "step": s, "train_loss": 2.0 / s, "trace_total": 1.0 + s} for s in (1, 2, 4)]
        )
        attack = [(1, 0.1, 0.5), (2, 0.3, 0.6)]
        attack = [{"kind": "pgd", "severity": i, "epsilon": e, "accuracy": a} for i, e, a in attack]
        noise = [
            {"kind": "noise", "severity": i, "epsilon": None, "accuracy": 1 - 0.1 * i} for i in (1, 2, 3)
        ]
        scaled = [{"kind": "temperature", "severity": 0, "epsilon": None, "accuracy": 0.9, "ece": 0.0123}]
        sink.robustness(attack + noise + scaled)
        sink.flush()
    return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    complete(folder / "results")
    verify("attentiondrop", results=folder / "results", from_sweep="demo")
    path = write_report(folder / "results", folder / "report.html")
    return folder / "results", path.read_text()


def section(page, title):
    found = re.search(rf"<section[^>]*>\s*<h3>{title}</h3>(.*?)</section>", page, flags=re.DOTALL)
    assert found, title
    return found[1]


def test_every_part_is_there(made):
    _, page = made
    for title in ("Comparison", "Accuracy against cost", "Learning curves", "Gradient variance", "Robustness",
                  "Calibration", "Tuning, parameters and FLOPs", "Trials", "Verdicts"):  # fmt: skip
        assert section(page, title)
    for title in (
        "Comparison",
        "Accuracy against cost",
        "Learning curves",
        "Gradient variance",
        "Robustness",
    ):
        assert "<svg" in section(page, title), title


def test_the_page_loads_nothing_from_anywhere(made):
    _, page = made
    assert not re.search(r'(src|href)="(?!#)', page.replace('xlink:href="#', '"#'))
    assert "@import" not in page and "<script src" not in page and "url(http" not in page


def test_the_comparison_shows_the_known_truth(made):
    _, page = made
    shown = html.unescape(section(page, "Comparison"))
    assert re.search(r"<td>dropout</td>.*?better", shown, flags=re.DOTALL)
    assert "inconclusive" in shown and re.search(r"\+[12]\.\d\d \[\+", shown)
    assert "unpaired" in shown and "is failed" in shown


def test_text_from_rows_cannot_become_markup(made):
    _, page = made
    assert "<script>alert(1)</script>" not in page and "&lt;script&gt;alert(1)" in page


def test_failed_gates_and_unmeasured_time_are_said(made):
    _, page = made
    assert "attack gate" in section(page, "Robustness") and "accuracy rises" in section(page, "Robustness")
    assert "forward FLOPs" in section(page, "Accuracy against cost")
    assert "too few for a verdict" in section(page, "Gradient variance")
    assert "1.23" in section(page, "Calibration")


def test_every_printed_query_runs_and_every_section_has_a_command(made):
    results, page = made
    commands = [html.unescape(text) for text in re.findall(r"<pre[^>]*>(.*?)</pre>", page, flags=re.DOTALL)]
    queries = [shlex.split(command)[2] for command in commands if command.startswith("attnbench query")]
    assert len(queries) >= 6
    for sql in queries:
        columns, _ = answer(results, sql)
        assert columns
    for body in re.findall(r"<section.*?</section>", page, flags=re.DOTALL):
        assert "reproduce" in body


def test_the_printed_commands_are_known_to_the_command_line(made):
    _, page = made
    commands = {
        html.unescape(text) for text in re.findall(r"<pre[^>]*>(attnbench (?:compare|claims).*?)</pre>", page)
    }
    assert commands
    for command in sorted(commands):
        ran = CliRunner().invoke(application(), shlex.split(command, comments=True)[1:])
        assert ran.exit_code == 0 and ran.exception is None, (command, ran.output)


def test_every_plot_is_sound_xml_with_ids_of_its_own_and_no_fixed_black(made):
    _, page = made
    plots = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    ids = []
    for plot in plots:
        ElementTree.fromstring(plot)
        ids += re.findall(r'\bid="([^"]+)"', plot)
        assert "#000000" not in plot
        assert all(reference in plot for reference in re.findall(r"url\(#([^)]+)\)", plot))
    assert len(plots) >= 6 and len(ids) == len(set(ids))
    assert "svg text { fill: currentColor" in page and "prefers-color-scheme: dark" in page


def test_the_same_rows_give_the_same_plots(made):
    results, page = made
    again = write_report(results, results.parent / "again.html").read_text()
    plots = [re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL) for text in (page, again)]
    assert plots[0] == plots[1]


def test_sixty_arms_stay_legible():
    rows = [drawing.Dot(f"arm {i}", i - 30, i - 31, i - 29, [i - 30.0], "+1") for i in range(60)]
    plot = drawing.dots("sixty", rows, xlabel="points", better=1)
    height = float(re.search(r'height="([\d.]+)pt"', plot)[1])
    assert 60 * 0.15 * 72 < height < 60 * 0.25 * 72 and plot.count(">arm ") == 60
    assert drawing.ABOVE in plot and drawing.BELOW in plot


def test_one_wild_interval_does_not_squeeze_the_others():
    rows = [
        drawing.Dot("tame", 1, 0.5, 1.5),
        drawing.Dot("tame too", 1, 0.5, 1.5),
        drawing.Dot("wild", 1, -500, 500),
    ]
    plot = drawing.dots("wild", rows, xlabel="points")
    assert (">500<" not in plot.replace("−", "-") and ">5<" in plot) or ">4<" in plot


def test_a_sweep_of_tuning_trials_alone_is_reported_as_such(tmp_path):
    write(tmp_path, "tuning", [trial(arm, 0, role="tune") for arm in ("softmax", "dropout")])
    page = write_report(tmp_path, tmp_path / "r.html").read_text()
    assert "confirm_seeds" in page


def test_bad_asks_are_one_line(tmp_path):
    write(tmp_path, "s", [trial("softmax", 0)])
    with pytest.raises(UsageError, match="sweep 'other'"):
        write_report(tmp_path, tmp_path / "r.html", sweep="other")
    with pytest.raises(UsageError, match="no arm 'sofmax'"):
        write_report(tmp_path, tmp_path / "r.html", baseline="sofmax")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(tmp_path, blocked / "r.html")
