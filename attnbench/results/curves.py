"""Which points of a learning curve go to MLflow: at most a hundred per split, chosen so that it can be done
live.

The planned length of the trial is cut into equal parts and the last row of each part is kept. Whether a row
is kept hangs on itself and the next row only, so a curve sent while it grew is the one that a rebuild sends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attnbench.results.schemas import TABLES

POINTS = 100

Points = Callable[[str, Mapping[str, str]], Iterator[tuple[str, float, float, int]]]


def thinned(steps: Any, train: Mapping[str, Any], *, ended: bool) -> Points:
    """A function (split, {column: metric}) -> points (metric, value, seconds, step) of a trial's step rows.

    steps: Arrow table of the trial's rows; train: its configured budget (`steps` or `epochs`);
    ended: no row will follow, so the last one is the last of its part. A trial without a budget has no parts
    until it ended.
    """
    import numpy as np
    import pyarrow.compute as pc

    kinds = TABLES["steps"].stored

    def points(split: str, names: Mapping[str, str]) -> Iterator[tuple[str, float, float, int]]:
        rows = steps.filter(pc.equal(steps["split"], split)).sort_by("step")
        if not len(rows):
            return
        done = rows["step"].to_numpy().astype(float)
        budget = train.get("steps")
        if not budget and train.get("epochs") and not rows["epoch"].null_count:
            done, budget = rows["epoch"].to_numpy(), train["epochs"]
        if not budget:
            if not ended:
                return
            budget = done[-1] or 1
        part = np.minimum(done * POINTS // float(budget), POINTS - 1)
        kept = np.flatnonzero(np.append(part[1:] != part[:-1], ended))
        rows = rows.take(kept)
        at = list(zip(rows["seconds"].to_pylist(), rows["step"].to_pylist(), strict=True))
        for column, metric in names.items():
            for value, (seconds, step) in zip(rows[column].to_pylist(), at, strict=True):
                if value is not None:
                    # A float32 shown in full is noise after the seventh digit: 0.0010000000474974513.
                    exact = kinds[column] != "FLOAT"
                    yield metric, value if exact else float(f"{value:.7g}"), seconds or 0.0, step

    return points
