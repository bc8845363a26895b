"""Checks before anything starts: every configuration is built once, rungs and seeds must fit."""

from typing import Any

from pydantic import ValidationError

from attnbench.errors import UsageError
from attnbench.sweep.arms import BUDGET, Arm
from attnbench.sweep.document import Document, Place
from attnbench.sweep.faults import first_fault
from attnbench.sweep.specification import Sweep
from attnbench.training import TrialConfig


def check_configurations(document: Document, sweep: Sweep) -> None:
    """Build every configuration once; the first that cannot be names its file and line."""
    from attnbench import workloads

    seen: dict[str, str] = {}
    for arm in sweep.arms:
        try:
            configurations = list(arm.configurations(sweep.search.samples, sweep.search.seed))
        except ValueError as error:
            document.fail(arm.place, str(error))
        for scope, point, sections in configurations:
            try:
                config = sweep.configuration(arm, sections)
            except ValidationError as error:
                _refuse(document, sweep, arm, {**scope, **point}, error)
            try:
                workloads.check(config.workload, fold=max(sweep.folds))
            except UsageError as error:
                document.fail(("workload",), str(error))
            _check_fit(document, arm, config)
            if config.trial_id in seen:
                other = seen[config.trial_id]
                document.fail(
                    arm.place,
                    f"this arm holds a configuration that '{other}' has too; a sweep runs each once",
                )
            seen[config.trial_id] = arm.label


def _check_fit(document: Document, arm: Arm, config: TrialConfig) -> None:
    """Whether host, workload and measurements go together; nothing big is built or loaded."""
    from attnbench import attention, evaluation, hosts, workloads

    site = "decoder_self" if config.host.causal else "encoder_self"
    try:
        attention.refuse_idle(config.attention, layers=config.host.layers, sites=[site])
    except UsageError as error:
        document.fail(arm.source(("attention", 0)) if len(config.attention) == 1 else arm.place, str(error))
    signature = workloads.load(config.workload, fold=config.fold).signature
    try:
        hosts.check_host(config.host, signature)
    except UsageError as error:
        document.fail(arm.source(_quoted_key(str(error))), str(error))
    try:
        if config.measure.robustness:
            evaluation.check_kinds(config.measure.robustness, signature)
    except UsageError as error:
        document.fail(("measure", "robustness"), str(error).removeprefix("robustness: "))


def _quoted_key(reason: str) -> Place:
    """`host.patch 3 does not ...` is about ("host", "patch")."""
    return tuple(reason.split()[0].rstrip(":").split("."))


def _refuse(
    document: Document, sweep: Sweep, arm: Arm, point: dict[Place, Any], error: ValidationError
) -> None:
    """Raise the one line for a configuration that pydantic or one of our rooms refused."""
    place, reason = first_fault(error, TrialConfig)
    if place and place[0] == "attention":
        place = _guilty_entry(arm, point, reason)
    elif place and place[0] in ("workload", "objective"):
        place = _named_key(place, arm, reason)
    elif place in (("host",), ()):
        place = _quoted_key(reason)
    source = arm.source(place)
    if place in arm.tuned or place in arm.scopes:
        axis = (arm.tuned | arm.scopes)[place]
        if isinstance(_value(document.data, source), list) and point[place] in axis.values:
            source = (*source, axis.values.index(point[place]))
    document.fail(source, reason.removeprefix(f"{place[0]}: "))


def _guilty_entry(arm: Arm, point: dict[Place, Any], reason: str) -> Place:
    """Which entry of a composition, and which of its keys, a refusal is about."""
    from attnbench.attention import canonical

    for number, entry in enumerate(arm.at(point)["attention"]):
        try:
            canonical(entry)
        except UsageError:
            return _named_key(("attention", number), arm, reason)
    return ("attention",) if len(arm.fixed["attention"]) > 1 else ("attention", 0)


def _named_key(place: Place, arm: Arm, reason: str) -> Place:
    """The key below `place` that the reason quotes or starts with, if it is written in the file."""
    for written in arm.sources:
        key = written[-1]
        if written[:-1] == place and (f"'{key}'" in reason or f"{key}:" in reason):
            return written
    return place


def _value(data: Any, place: Place) -> Any:
    for step in place:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def check_search(document: Document, sweep: Sweep) -> None:
    """Rungs that fall on evaluations, equal numbers of configurations, and seeds that are fresh."""
    search = sweep.search
    if not search.prunes:
        for key in ("grace", "reduction"):
            if key in (document.data.get("search") or {}):
                document.fail(
                    ("search", key), "belongs to halving and asha; a grid runs every trial to the end"
                )
    if set(sweep.confirm_seeds) & set(sweep.header.seeds[:1]):
        document.fail(
            ("search", "confirm_seeds"),
            f"seed {sweep.header.seeds[0]} is the tuning seed; confirming takes fresh ones",
        )
    if not search.prunes:
        return
    counts: dict[str, int] = {}
    for _, group, config in sweep.configurations:
        counts[group] = counts.get(group, 0) + 1
        train = config.train
        if search.grace is not None and search.grace > train.budget:
            document.fail(
                ("search", "grace"), f"{search.grace} is beyond the budget of {train.budget} {train.unit}"
            )
        late = [
            rung for rung in sweep.rungs(train) if rung != train.budget and rung % (train.eval_every or 1)
        ]
        if late:
            document.fail(
                ("search", "grace") if search.grace else ("search",),
                f"the rung at {late[0]} {train.unit} falls between two evaluations (every "
                f"{train.eval_every}); set train.eval_every to a divisor of {late[0]}, or grace to a "
                f"multiple of {train.eval_every}",
            )
    if any(place in arm.scopes for arm in sweep.arms for place in BUDGET):
        document.fail(("train",), f"{search.kind} takes one budget, not a list of them")
    fewest, most = min(counts, key=lambda group: counts[group]), max(counts, key=lambda group: counts[group])
    if counts[fewest] != counts[most]:
        document.fail(
            ("search",),
            f"'{fewest}' has {counts[fewest]} configurations and '{most}' {counts[most]}; arms are tuned "
            f"equally, so say search.samples: {counts[fewest]}, or widen the smaller arm",
        )
