"""The SQL behind every table and view that `attnbench query` shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attnbench.results.layout import Snapshot
from attnbench.results.schemas import SCHEMA_VERSION, Table


def select_rows(table: Table, shot: Snapshot, versions: Mapping[str, int | None]) -> str:
    """A SELECT of the table's rows from the files that count: the right columns even where there is no file
    yet.
    """
    current = [path for path in shot.paths if versions.get(path) == SCHEMA_VERSION]
    merged = {str(shot.folder / entry.path) for entry in shot.merged}
    names = ", ".join(f'"{name}"' for name in table.columns)
    parts = []
    if not shot.hidden and current:
        parts.append(f"select {names} from {_read(current)}")
    elif current:
        parts += [
            f"select {names} from {_read(group)}{where}"
            for group, where in (
                ([path for path in current if path not in merged], ""),
                ([path for path in current if path in merged], f" where {_not_hidden(table, shot)}"),
            )
            if group
        ]
    # A file of another schema version may lack columns or have more: by name, nulls for what it lacks.
    for version in sorted({versions.get(path) or 0 for path in shot.paths} - {SCHEMA_VERSION}):
        group = [path for path in shot.paths if (versions.get(path) or 0) == version]
        where = f" where {_not_hidden(table, shot)}" if shot.hidden else ""
        parts.append(
            f"select {names} from (({_empty(table)}) union all by name (from {_read(group)})){where}"
        )
    return " union all ".join(parts) if parts else _empty(table)


def _read(paths: Iterable[str]) -> str:
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    return f"read_parquet([{listed}], hive_partitioning=true, hive_types_autocast=false)"


def _empty(table: Table) -> str:
    kinds = {"JSON": "VARCHAR"}
    columns = ", ".join(f'null::{kinds.get(kind, kind)} as "{name}"' for name, kind in table.columns.items())
    return f"select {columns} where false"


def _not_hidden(table: Table, shot: Snapshot) -> str:
    triples = ", ".join(
        f"('{sweep}', '{key.replace(chr(39), chr(39) * 2)}', {attempt})"
        for sweep, key, attempt in shot.hidden
    )
    return f"(sweep, {table.key}, attempt) not in ({triples})"


#: Student's t at 0.975 for 1 to 30 degrees of freedom; above, the Cornish-Fisher expansion is exact to 1e-5.
_T_975 = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139,
    2.200985, 2.178813, 2.160369, 2.144787, 2.13145, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
    2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.04523, 2.042272,
)  # fmt: skip
_Z = 1.959963984540054


def t_quantile(df: str) -> str:
    """SQL for Student's t quantile at 0.975 with `df` (an SQL expression) degrees of freedom; null below
    1.
    """
    first = (_Z**3 + _Z) / 4
    second = (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96
    third = (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / 384
    known = "[" + ", ".join(str(value) for value in _T_975) + "]"
    return (
        f"case when {df} < 1 then null when {df} <= {len(_T_975)} then {known}[({df})::INT] "
        f"else {_Z} + {first}/({df}) + {second}/({df})**2 + {third}/({df})**3 end"
    )


#: Test and validation metrics of the leaderboard, best first where a workload has several, and which way is
# better.
METRICS = {
    "test_accuracy": "max",
    "test_bits_per_byte": "min",
    "test_nll": "min",
    "test_ece": "min",
    "test_brier": "min",
    "val_accuracy": "max",
    "val_bits_per_byte": "min",
}
_ORDER = "[" + ", ".join(f"'{name}'" for name in METRICS) + "]"
_SMALLER = "(" + ", ".join(f"'{name}'" for name, way in METRICS.items() if way == "min") + ")"

#: What makes two trials the same configuration, up to seed and fold.
_SAME = "sweep, arm, mechanism, attention, objective, workload, workload_params, host, host_params, train"


def _alike(left: str, right: str) -> str:
    return " and ".join(f"{left}.{name} is not distinct from {right}.{name}" for name in _SAME.split(", "))


# Time over the fused softmax's, for the trial's own shape, device and path; never from a sweep's throughput.
# cost_mode says of what: a training step of one block where that was measured, else the layer's two passes.
_COST = """
    select t.sweep, t.trial_id, t.attempt, c.cost_ratio, c.mode as cost_mode
    from entered t join (
        select attention, objective, path, heads, head_dim, length, batch, causal, precision, device, threads,
               mode, exp(avg(ln(ratio) order by ratio)) as cost_ratio
        from cost_ratios
        where (mode = 'forward_backward'
               or (mode = 'step' and coalesce(shape->>'network', 'block') = 'block'))
              and baseline_path not in ('eager', 'reference', 'math')
              and baseline = 'softmax'
        group by all
    ) c on c.attention = t.attention and c.objective is not distinct from t.objective
        and c.path = t.kernel_path and c.precision = t.precision
        and c.device = t.device and c.threads = t.threads
        and c.heads = (t.host_params->>'heads')::BIGINT
        and c.heads * c.head_dim = (t.host_params->>'width')::BIGINT
        and c.causal = (t.host = 'decoder')
        and c.batch = (t.train->>'batch')::BIGINT // greatest(1,
            coalesce(t.workers, 1) * coalesce((t.train->>'grad_accum')::BIGINT, 1))
        and c.length = round(t.tokens / nullif(t.examples, 0))
    qualify row_number() over (partition by t.sweep, t.trial_id order by c.mode desc) = 1
"""

# Folds are averaged within a seed first: the seed is the unit of every interval. Tuning runs are no result.
# Sums are ordered, so that the last digit does not hang on how the rows are spread over files.
_CONFIGURATIONS = f"""
    with entered as materialized (  -- read once: three parts stand on it
        select * replace (coalesce(arm, mechanism) as arm) from trials
        where coalesce(role, 'grid') in ('grid', 'confirm')
    ),
    costs as ({_COST}),
    long as (
        unpivot (select {_SAME}, seed, fold, {", ".join(METRICS)} from entered where status = 'ok')
        on {", ".join(METRICS)} into name metric value value
    ),
    by_seed as (select {_SAME}, metric, seed, avg(value order by fold) as value from long group by all),
    figures as (
        select {_SAME}, metric, avg(value order by seed) as mean, count(*) as seeds,
               stddev_samp(value order by seed) as sd
        from by_seed group by all
    ),
    sizes as (
        select {_SAME}, count(*) filter (status <> 'ok') as not_ok,
               avg(cost_ratio order by cost_ratio) as cost_ratio, any_value(cost_mode) as cost_mode,
               any_value(parameters) as parameters, any_value(forward_flops) as forward_flops
        from entered left join costs using (sweep, trial_id, attempt) group by all
    )
    select f.* exclude (sd), ({t_quantile("f.seeds - 1")}) * f.sd / sqrt(f.seeds) as half_width, s.not_ok,
           s.cost_ratio, s.cost_mode, s.parameters, s.forward_flops
    from figures f join sizes s
    on {_alike("f", "s")}
"""

VIEWS: dict[str, str] = {
    # One row per arm's configuration and metric; half_width is that of a 95 % t interval over seeds,
    # unadjusted.
    "leaderboard": f"""
        select sweep, workload, host, metric,
               rank() over (partition by sweep, workload, host, metric
                            order by case when metric in {_SMALLER} then mean else -mean end) as rank,
               arm, mechanism, mean, half_width, seeds, not_ok, cost_ratio, cost_mode, parameters,
               attention, objective, workload_params, host_params, train
        from ({_CONFIGURATIONS})
        order by sweep, workload, host, list_position({_ORDER}, metric), rank, arm
    """,
    # Each arm with the configuration that validation chose, and what the test part then said.
    "best_by_attention": f"""
        with c as ({_CONFIGURATIONS}),
        chosen as (
            select *, count(*) over (partition by sweep, workload, host, arm, metric) as configurations from c
            where metric in ('val_accuracy', 'val_bits_per_byte')
            qualify row_number() over (partition by sweep, workload, host, arm, metric
                order by case when metric in {_SMALLER} then mean else -mean end, train, attention) = 1
        )
        select v.sweep, v.workload, v.host, t.metric, v.arm, v.mechanism, t.mean, t.half_width, t.seeds,
               t.not_ok, t.cost_ratio, t.cost_mode, v.mean as val_mean, v.configurations, t.parameters,
               t.forward_flops,
               v.attention, v.objective, v.workload_params, v.host_params, v.train
        from chosen v join c t
        on t.metric = replace(v.metric, 'val_', 'test_')
           and {_alike("v", "t")}
        order by v.sweep, v.workload, v.host, t.metric,
                 case when t.metric in {_SMALLER} then t.mean else -t.mean end
    """,
    # Quality against cost; on_front: no other arm is at least as good and as cheap. Null where cost
    # was not measured.
    "pareto": f"""
        with b as (
            select *, case when metric in {_SMALLER} then mean else -mean end as badness
            from best_by_attention
        )
        select sweep, workload, host, metric, arm, mechanism, mean, half_width, seeds, cost_ratio, cost_mode,
               parameters, forward_flops,
               case when cost_ratio is null then null else not exists (
                   select 1 from b o
                   where o.sweep = b.sweep and o.workload = b.workload and o.host = b.host
                     and o.metric = b.metric and o.cost_mode = b.cost_mode
                     and o.badness <= b.badness and o.cost_ratio <= b.cost_ratio
                     and (o.badness < b.badness or o.cost_ratio < b.cost_ratio)) end as on_front
        from b order by sweep, workload, host, metric, cost_ratio nulls last, badness
    """,
    # Learning curves with the names of their arms, of finished and running trials alike.
    "curves": """
        select s.sweep, coalesce(t.arm, t.mechanism, r.arm, r.mechanism) as arm,
               coalesce(t.mechanism, r.mechanism) as mechanism,
               coalesce(t.workload, r.config->'workload'->>'name') as workload,
               coalesce(t.seed, r.seed) as seed, coalesce(t.fold, r.fold) as fold,
               coalesce(t.role, r.role) as role, coalesce(t.status, 'running') as status,
               s.* exclude (sweep)
        from steps s
        left join trials t on t.sweep = s.sweep and t.trial_id = s.trial_id and t.attempt = s.attempt
        left join requests r on r.sweep = s.sweep and r.trial_id = s.trial_id
    """,
    # What was asked for and has no final row: interrupted by a person, else under way (or killed) where
    # it has steps, else waiting.
    "running": """
        with last as (
            select sweep, trial_id, attempt, max(step) as step, max(epoch) as epoch, max(seconds) as seconds,
                   arg_max(loss, step) filter (split = 'train') as train_loss,
                   arg_max(loss, step) filter (split = 'val') as val_loss,
                   arg_max(accuracy, step) filter (split = 'val') as val_accuracy,
                   arg_max(bits_per_byte, step) filter (split = 'val') as val_bits_per_byte
            from steps group by all
        )
        select coalesce(r.sweep, l.sweep) as sweep, coalesce(r.trial_id, l.trial_id) as trial_id,
               coalesce(r.arm, r.mechanism) as arm, r.mechanism, r.seed, r.fold, r.role,
               case when r.interrupted_at is not null then 'interrupted'
                    when l.trial_id is null then 'waiting' else 'started' end as state,
               l.attempt, l.step, l.epoch, l.seconds, l.train_loss, l.val_loss, l.val_accuracy,
               l.val_bits_per_byte
        from requests r full join last l on l.sweep = r.sweep and l.trial_id = r.trial_id
        where not exists (
            select 1 from trials t where t.sweep = coalesce(r.sweep, l.sweep)
              and t.trial_id = coalesce(r.trial_id, l.trial_id) and t.attempt >= coalesce(l.attempt, 0))
        order by sweep, state, arm, r.seed
    """,
}
