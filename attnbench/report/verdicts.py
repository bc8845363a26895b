"""Verdicts and claims for the terminal: the finding, the paper's figure and its source, how to repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnbench.claims.hypothesis import Hypothesis, Unable, sources
from attnbench.claims.verdict import Verdict

HEADINGS = ("claim", "verdict", "arm", "baseline", "estimate, 95 % interval", "the paper's", "seeds", "scope")
STYLES = {"reproduced": "green", "supported": "green", "refuted": "red", "inconclusive": "yellow"}


def console() -> Console:
    """stdout at its own width; 180 columns where it is no terminal."""
    own = Console()
    return own if own.is_terminal else Console(width=180)


def print_verdicts(found: Sequence[Verdict], results: Path) -> None:
    """The table, then reasons, sources and commands, claim by claim."""
    out = console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="verdicts", title_justify="left")
    for heading in (
        "claim",
        "verdict",
        "arm",
        "baseline",
        "estimate, 95 % interval",
        "the paper's",
        "seeds",
        "scope",
    ):
        right = heading in HEADINGS[4:7]
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for verdict in found:
        table.add_row(
            verdict.claim,
            Text(verdict.label, style=STYLES.get(verdict.label, "dim")),
            verdict.arm or "",
            verdict.baseline or "",
            estimate_words(verdict),
            paper_words(verdict),
            "" if verdict.seeds is None else str(verdict.seeds),
            verdict.scope or "",
        )
    out.print(table)
    for verdict in found:
        what = f" {verdict.arm} vs {verdict.baseline}" if verdict.arm else ""
        size = f", size {verdict.size}" if verdict.size else ""
        out.print(Text(f"{verdict.claim}{what}: {verdict.label}{size}. {verdict.reason}"), soft_wrap=True)
        if verdict.paper_source:
            out.print(Text(f"    the paper's figure: {verdict.paper_source}", style="dim"), soft_wrap=True)
    for command in dict.fromkeys(command_for(verdict, results) for verdict in found):
        out.print(Text(f"reproduce: {command}", style="dim"), soft_wrap=True)
    if any(verdict.low is not None for verdict in found):
        out.print(
            Text("intervals are unadjusted; direction needs a Holm-adjusted p below the level", style="dim")
        )


def estimate_words(verdict: Verdict) -> str:
    """`+1.20 [+0.40, +2.00] points of test_accuracy`."""
    if verdict.estimate is None:
        return ""
    ends = "no interval"
    if verdict.low is not None and verdict.high is not None:
        ends = f"{verdict.low:+.2f}, {verdict.high:+.2f}"
    return f"{verdict.estimate:+.2f} [{ends}] {verdict.unit or ''}".rstrip().replace("-0.00", "+0.00")


def paper_words(verdict: Verdict) -> str:
    """The paper's figure with the tag of its source, or a dash."""
    if verdict.paper_value is None or not verdict.paper_source:
        return "-"
    return f"{verdict.paper_value:+.2f} {verdict.paper_source.split(']')[0]}]"


def command_for(verdict: Verdict, results: Path) -> str:
    """The command that makes this verdict again from the same rows."""
    if verdict.sweep in ("none", ""):
        return f"attnbench claims list --json  # {verdict.claim} has no rule that runs"
    if verdict.label == "not_run":
        return f"attnbench claims verify {verdict.claim} --results {results}"
    return f"attnbench claims verify {verdict.claim} --from-sweep {verdict.sweep} --results {results}"


def print_plan(found: Sequence[Verdict]) -> None:
    """What would run, one block per sweep or measurement; then what has no rule that runs."""
    out = console()
    sweeps = dict.fromkeys(verdict.sweep for verdict in found)
    for sweep in sorted(sweeps, key=lambda name: name == "none"):
        own = [verdict for verdict in found if verdict.sweep == sweep]
        if sweep == "none":
            out.print("[dim]would not run:[/dim]")
            for verdict in own:
                out.print(
                    Text(f"    {verdict.claim}: {verdict.label}, {verdict.reason}", style="dim"),
                    soft_wrap=True,
                )
            continue
        answers = ", ".join(verdict.claim for verdict in own)
        out.print(Text(f"{sweep}: {own[0].reason}"), soft_wrap=True)
        out.print(Text(f"    answers {answers}", style="dim"), soft_wrap=True)


def print_claims(claims: Sequence[Hypothesis]) -> None:
    """Every claim with its figures; the tags of the sources below."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("id", "claim", "arXiv", "the paper's figures", "runs"):
        table.add_column(heading, overflow="fold")
    used = []
    for claim in claims:
        figures = []
        for contrast in claim.contrasts:
            for value in contrast.paper:
                used.append(value.source)
                figures.append(
                    f"{contrast.arm}: {value.value:+g} {value.unit}, {value.what} [{value.source}]"
                )
        runs = Text("yes", style="green")
        if isinstance(claim.rule, Unable):
            runs = Text(f"{claim.rule.label}: {claim.rule.reason}", style="dim")
        table.add_row(
            claim.id, f"{claim.name}: {claim.statement}", claim.arxiv, "; ".join(figures) or "-", runs
        )
    out = console()
    out.print(table)
    for tag in dict.fromkeys(used):
        out.print(Text(f"[{tag}] {sources()[tag]}", style="dim"))
