"""Runs the checks on a mechanism and collects what each found."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from attnbench.attention import Mechanism, canonical
from attnbench.attention.specification import read
from attnbench.conformance import masks, numerics, ownership
from attnbench.conformance.outcome import DoesNotApply, Failed
from attnbench.conformance.subject import Subject
from attnbench.errors import UsageError

CHECKS: dict[str, Callable[[Subject], None]] = {
    name: function
    for module in (masks, numerics, ownership)
    for name, function in vars(module).items()
    if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
}
"""Every check by name, in the order in which they run."""


@dataclass(frozen=True)
class Result:
    """What one check found. detail: why it failed or does not apply; empty when all is well."""

    name: str
    outcome: Literal["passed", "failed", "does not apply"]
    detail: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Nothing is wrong: the check held or has no meaning here."""
        return self.outcome != "failed"


def check(target: str | type[Mechanism], **parameters: Any) -> list[Result]:
    """Put a mechanism through every check, all on CPU in a few seconds.

    target: a registered name, `path/to/file.py:Class`, or the class itself; parameters: its own, defaults
    where left out. UsageError if there is no such mechanism or the parameters are wrong; whatever a check
    itself trips over, exceptions included, is that check's failure.
    """
    subject = subject_of(target, parameters)
    return [run(name, subject) for name in CHECKS]


def run(name: str, subject: Subject) -> Result:
    """Run one check."""
    start = time.perf_counter()
    outcome: Literal["passed", "failed", "does not apply"] = "passed"
    detail = ""
    try:
        CHECKS[name](subject)
    except DoesNotApply as reason:
        outcome, detail = "does not apply", str(reason)
    except Failed as failure:
        outcome, detail = "failed", str(failure)
    except Exception as error:
        where = _place(error)
        outcome, detail = "failed", f"{type(error).__name__}: {' '.join(str(error).split())}{where}"
    return Result(name, outcome, detail, time.perf_counter() - start)


def subject_of(target: str | type[Mechanism], parameters: dict[str, Any]) -> Subject:
    """What `check` works on; UsageError if there is no such mechanism or the parameters are wrong."""
    if isinstance(target, str):
        (entry,) = read({"name": target, **parameters})
        canonical({"name": target, **parameters})
        return Subject(entry.mechanism, entry.settings)
    if not (isinstance(target, type) and issubclass(target, Mechanism)):
        raise UsageError(
            f"check takes a mechanism's name, file.py:Class or a Mechanism class, got {target!r}"
        )
    return Subject(target, target.schema.model_validate(parameters))


def _place(error: Exception) -> str:
    """The last line of the traceback that is neither torch's nor a check's."""
    ours = {Path(__file__).parent}
    trace = error.__traceback__
    last = ""
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.parent not in ours and "torch" not in file.parts:
            last = f" ({file.name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return last
