"""The report: one self-contained HTML file that opens from disk, in light and dark, on a phone too."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from attnbench import __version__
from attnbench.claims import pairing
from attnbench.claims.verdict import latest
from attnbench.errors import UsageError
from attnbench.report import accounts, measurements, quality
from attnbench.report.section import Section, Source

SWEEP_SECTIONS: tuple[Callable[[Source], Section | None], ...] = (
    quality.comparison_section,
    quality.cost_section,
    measurements.curves_section,
    measurements.gradient_section,
    measurements.robustness_section,
    quality.calibration_section,
    accounts.tuning_section,
    accounts.trials_section,
)


def write_report(
    results: str | Path, out: str | Path, *, sweep: str | None = None, baseline: str | None = None
) -> Path:
    """Write the report on `results` to `out` (one HTML file); its path.

    sweep     only this one; all that have finished trials by default, the newest first
    baseline  the arm that others are compared with; softmax, or the first arm, by default
    """
    page = render(Path(results), sweep, baseline)
    target = Path(out)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, target)
    except OSError as error:
        raise UsageError(f"the report cannot be written to '{out}': {error.strerror}") from error
    return target


def render(results: Path, sweep: str | None = None, baseline: str | None = None) -> str:
    """The whole page as text."""
    from jinja2 import Environment, PackageLoader, select_autoescape
    from markupsafe import Markup

    sources = [Source(results, name, baseline) for name in _sweeps(results, sweep)]
    if not any(source.arms for source in sources):
        raise UsageError(
            f"no finished trial in {results} to report on; 'attnbench run jobs/quickstart.yaml' makes some"
        )
    chapters = [(source.sweep, _sections(source)) for source in sources if source.arms]
    common = [accounts.verdict_section(latest(results, sweep), results), accounts.cost_table_section(results)]
    environment = Environment(
        loader=PackageLoader("attnbench.report", "."), autoescape=select_autoescape(["html"]),
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["inline"] = Markup
    folder = Path(__file__).parent
    return environment.get_template("page.html").render(
        chapters=chapters,
        common=[section for section in common if section is not None],
        machine=_machine(sources),
        results=results,
        version=__version__,
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup((folder / "page.css").read_text()),
        script=Markup((folder / "page.js").read_text()),
    )


def _sections(source: Source) -> list[Section]:
    """The parts about one sweep; of one that may not be compared yet, why, and its trials."""
    try:
        pairing.entering(source.rows.trials)
    except UsageError as error:
        command = source.query(f"select * from running where sweep = '{source.sweep}'")
        return [
            Section("Comparison", notes=[str(error)], commands=[command]),
            accounts.trials_section(source),
        ]
    return [part for make in SWEEP_SECTIONS if (part := make(source)) is not None]


def _sweeps(results: Path, sweep: str | None) -> list[str]:
    """The sweeps with final rows, the latest ended first."""
    from attnbench.results import load

    trials = load("trials", results)
    if sweep is not None and sweep not in set(trials["sweep"]):
        known = ", ".join(sorted(set(trials["sweep"]))) or "none yet"
        raise UsageError(f"no finished trial of sweep '{sweep}' in {results}; sweeps: {known}")
    if sweep is not None:
        return [sweep]
    ended = trials.groupby("sweep")["ended_at"].max().sort_values(ascending=False)
    return [str(name) for name in ended.index]


def _machine(sources: list[Source]) -> str:
    """Where these figures are from: devices, threads, code version; all of them, should they differ."""
    parts = []
    for column in ("device", "threads", "precision", "git_hash"):
        values = {
            str(value)[:12] for source in sources for value in source.rows.trials[column].dropna().unique()
        }
        parts.append(f"{column.replace('git_hash', 'code')} {', '.join(sorted(values)) or 'unknown'}")
    return "; ".join(parts)
