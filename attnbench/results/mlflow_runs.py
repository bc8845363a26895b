"""Trials as MLflow runs: one experiment per sweep, one flat run per trial, a function of the tables alone.

So it may be repeated, and rebuilt after the database is deleted. Nested runs would hide a sweep behind one
collapsed row, and every step would be 280 bytes and 0.15 ms a value: curves are thinned.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from attnbench.results.curves import thinned
from attnbench.results.layout import Snapshot, open_results, snapshot
from attnbench.results.store import Store
from attnbench.results.tracking import (
    STATUS,
    TRAIN,
    VAL,
    final_figures,
    flat_parameters,
    milliseconds,
    quiet,
    tags_of,
    tracking_uri,
)


class _Run(NamedTuple):
    """What MLflow has of a trial: `mirrored` once everything of that attempt is there."""

    run_id: str
    attempt: int
    mirrored: bool


class Mirror:
    """Keeps the MLflow at `uri` in step with a results folder. Uses of it may be repeated at will."""

    def __init__(self, results: str | os.PathLike[str], uri: str | None = None) -> None:
        quiet()
        from mlflow import MlflowClient

        self.store = Store(open_results(results))
        self.uri = uri or tracking_uri(results)
        self.client = MlflowClient(tracking_uri=self.uri)
        self._experiments: dict[str, str] = {}
        self._runs: dict[str, dict[str, _Run]] = {}
        self._seen: dict[tuple[str, str], tuple] = {}
        self._sent: dict[str, dict[str, int]] = {}

    def sync(self, sweep: str, progress: Callable[[int, int], None] | None = None) -> int:
        """Send whatever MLflow lacks of a sweep; the number of runs written to."""
        root = self.store.path
        listings = {table: snapshot(root, table, sweep) for table in ("trials", "steps", "requests")}
        due = {
            trial: attempt
            for trial, attempt in _attempts(listings)
            if self._seen.get((sweep, trial)) != _signature(trial, attempt, listings)
        }
        known = self._known_runs(sweep) if due else {}
        due = {t: a for t, a in due.items() if t not in known or known[t][1:] != (a, True)}
        if not due:
            return 0
        requests = {row["trial_id"]: row for row in self.store.rows("requests", sweep)}
        finals = {row["trial_id"]: row for row in self.store.rows("trials", sweep)}
        for done, (trial, steps) in enumerate(_step_tables(self.store, sweep, due), 1):
            attempt = due[trial]
            final = finals.get(trial)
            if final is not None and final["attempt"] < attempt:
                final = None
            self._send(sweep, trial, attempt, requests.get(trial), final, steps)
            self._seen[sweep, trial] = _signature(trial, attempt, listings)
            if progress:
                progress(done, len(due))
        return len(due)

    def _experiment(self, sweep: str) -> str:
        if sweep not in self._experiments:
            found = self.client.get_experiment_by_name(sweep)
            if found is None:
                local = self.uri.startswith("sqlite:")
                place = (self.store.path.absolute() / "mlartifacts").as_uri() if local else None
                self._experiments[sweep] = self.client.create_experiment(sweep, artifact_location=place)
            else:
                if found.lifecycle_stage == "deleted":
                    self.client.restore_experiment(found.experiment_id)
                self._experiments[sweep] = found.experiment_id
        return self._experiments[sweep]

    def _known_runs(self, sweep: str) -> dict[str, _Run]:
        """trial_id -> its run; asked once per process, since a search takes 1.6 ms a run."""
        if sweep not in self._runs:
            runs: dict[str, _Run] = {}
            token = None
            while True:
                page = self.client.search_runs([self._experiment(sweep)], max_results=1000, page_token=token)
                for run in page:
                    tags = run.data.tags
                    if "attnbench.trial_id" in tags:
                        attempt = int(tags.get("attnbench.attempt", 0))
                        mirrored = tags.get("attnbench.mirrored") == str(attempt)
                        runs[tags["attnbench.trial_id"]] = _Run(run.info.run_id, attempt, mirrored)
                token = page.token
                if not token:
                    break
            self._runs[sweep] = runs
        return self._runs[sweep]

    def _send(
        self, sweep: str, trial: str, attempt: int, request: Mapping | None, final: Mapping | None, steps: Any
    ) -> None:
        """Bring one trial's run up to date."""
        from mlflow.entities import Metric, Param, RunTag

        row = {**(request or {}), **{k: v for k, v in (final or {}).items() if v is not None}}
        text = (request or row).get("config")  # the same one, live and in a rebuild
        config = json.loads(text) if text else {}
        base_ms = milliseconds((request or {}).get("requested_at") or row.get("started_at")) or 0
        tags = tags_of(sweep, trial, attempt, row)
        run, new = self._run_of(sweep, trial, attempt, row, tags)
        points = thinned(steps, config.get("train", {}), ended=final is not None)
        metrics = [
            Metric(name, value, base_ms + int(1000 * seconds), step)
            for split, names in (("train", TRAIN), ("val", VAL))
            for name, value, seconds, step in points(split, names)
        ]
        if not new and run.run_id not in self._sent:
            self._sent[run.run_id] = self._last_steps(run.run_id, {metric.key for metric in metrics})
        sent = self._sent.setdefault(run.run_id, {})
        # By step, not by row: after a kill a trial redoes some steps, at other times of the clock.
        metrics = [metric for metric in metrics if metric.step > sent.get(metric.key, -1)]
        params: list[Param] = []
        if new or final is not None:
            there = {} if new else self.client.get_run(run.run_id).data.params
            params = [Param(name, value) for name, value in flat_parameters(config) if name not in there]
        end_ms = base_ms
        if final is not None:
            end_ms = milliseconds(final.get("ended_at")) or base_ms
            figures = {**final_figures(final), **self._side_figures(sweep, trial, attempt)}
            last_step = final.get("steps") or 0
            metrics += [Metric(name, value, end_ms, last_step) for name, value in figures.items()]
        for at in range(0, len(params), 100):  # REST takes 100 parameters and 1000 metrics at once
            self.client.log_batch(run.run_id, params=params[at : at + 100])
        for at in range(0, len(metrics), 1000):
            self.client.log_batch(run.run_id, metrics=metrics[at : at + 1000])
        for metric in metrics:
            sent[metric.key] = max(metric.step, sent.get(metric.key, -1))
        if final is not None:
            self.client.log_batch(run.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
            self.client.set_terminated(run.run_id, STATUS.get(final["status"], "FAILED"), end_ms)
            self.client.set_tag(run.run_id, "attnbench.mirrored", str(attempt))  # now everything is there
            self._runs[sweep][trial] = run._replace(mirrored=True)
            self._sent.pop(run.run_id, None)

    def _run_of(
        self, sweep: str, trial: str, attempt: int, row: Mapping[str, Any], tags: dict[str, str]
    ) -> tuple[_Run, bool]:
        """The trial's run, and whether it was made just now."""
        run = self._runs[sweep].get(trial)
        if run is not None and run.attempt == attempt:
            return run, False
        if run is not None:
            self.client.delete_run(run.run_id)  # a retry is the same trial again, from the start
        created = self.client.create_run(
            self._experiment(sweep),
            start_time=milliseconds(row.get("started_at")) or int(time.time() * 1000),
            run_name=f"{row.get('arm') or row.get('mechanism') or trial} s{row.get('seed', '?')}",
            tags=tags,
        )
        self._runs[sweep][trial] = _Run(created.info.run_id, attempt, False)
        return self._runs[sweep][trial], True

    def _last_steps(self, run_id: str, names: Iterable[str]) -> dict[str, int]:
        """For a run that an earlier mirror began: the last step that it has of each series."""
        last: dict[str, int] = {}
        for name in names:
            history = self.client.get_metric_history(run_id, name)
            if history:
                last[name] = max(metric.step for metric in history)
        return last

    def _side_figures(self, sweep: str, trial: str, attempt: int) -> dict[str, float]:
        """Robustness and gradient variance of a finished trial, as single figures."""
        figures = {}
        for row in self.store.rows("robustness", sweep, trial, attempt):
            if row["accuracy"] is not None:
                severity = "" if row["severity"] is None else f" {row['severity']:g}"
                figures[f"robustness/{row['kind']}{severity} accuracy"] = row["accuracy"]
        for row in self.store.rows("gradients", sweep, trial, attempt):
            if row["layer_group"] == "total" and row["trace_total"] is not None:
                figures[f"gradients/{row['weights_of'] or 'own'} trace_total"] = row["trace_total"]
        return figures


def _attempts(listings: Mapping[str, Snapshot]) -> list[tuple[str, int]]:
    """(trial, highest attempt) of whatever has rows, in a stable order."""
    highest: dict[str, int] = {}
    for table in ("trials", "steps"):
        for (_, key), attempt in listings[table].highest.items():
            highest[key] = max(attempt, highest.get(key, 0))
    return sorted(highest.items())


def _signature(trial: str, attempt: int, listings: Mapping[str, Snapshot]) -> tuple:
    """What changes whenever a trial's rows do: the names of its loose files."""
    parts: list[Any] = [attempt]
    for table in ("trials", "steps"):
        parts += [file[2:] for file in listings[table].loose if file.key == trial]
    return tuple(parts)


def _step_tables(store: Store, sweep: str, wanted: Mapping[str, int]) -> Iterator[tuple[str, Any]]:
    """Each wanted trial with its step rows, an Arrow table; a merged file is read once for all its trials."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from attnbench.results.parquet import read_file, to_table

    shot = snapshot(store.path, "steps", sweep)
    loose: dict[str, list[str]] = {}
    for file in shot.loose:
        if wanted.get(file.key) == file.attempt:
            loose.setdefault(file.key, []).append(file.path)
    left = dict(wanted)
    for entry in shot.merged:
        inside = [t for t in entry.holds if t in left and any(a == left[t] for a, _ in entry.holds[t])]
        if not inside:
            continue
        content = read_file("steps", shot.folder / entry.path)
        for trial in inside:
            attempt = pa.scalar(left.pop(trial))
            own = pc.and_(pc.equal(content["trial_id"], trial), pc.equal(content["attempt"], attempt))
            later = [read_file("steps", path) for path in loose.pop(trial, [])]
            yield trial, pa.concat_tables([content.filter(own), *later])
    for trial in left:
        try:
            parts = [read_file("steps", path) for path in loose.get(trial, [])]
        except FileNotFoundError:
            continue  # superseded while this was at other trials; the next pass sees the newer file
        yield trial, pa.concat_tables([to_table("steps", []), *parts])
