"""The single checks, each named after what it holds. A check raises Failed with what it saw, or "
"DoesNotApply with why."""

from __future__ import annotations

import copy
import inspect
import itertools
import pickle
import warnings

import torch
from torch import Tensor, nn

from attnbench.attention import AttentionLayer, seed_parameters
from attnbench.attention.draws import stable_seed
from attnbench.conformance.subject import BATCH, HEADS, LENGTH, WIDTH, Carried, Subject, padding, rows
from attnbench.errors import UsageError

VALUE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


class Failed(AssertionError):
    """The mechanism does not hold what the check is named after."""


class DoesNotApply(Exception):
    """The check has no meaning for this mechanism."""


def has_a_summary_equations_and_described_parameters(s: Subject) -> None:
    _hold(bool(s.mechanism.summary), "`summary` is empty; one line for 'attnbench list attention'")
    _hold(
        len(inspect.getdoc(s.mechanism) or "") > 80,
        "the class has no docstring with its equations and shapes",
    )
    bare = [n for n, f in s.mechanism.schema.model_fields.items() if not f.description]
    _hold(not bare, f"parameters without a description: {', '.join(bare)}")


def output_has_the_shape_of_the_input(s: Subject) -> None:
    for causal, kernel, training in itertools.product(s.causal_modes, ("auto", "reference"), (False, True)):
        x = rows()
        out, _ = s.build(causal, kernel, training=training)(x)
        _hold(out.shape == x.shape, f"output {tuple(out.shape)} for input {tuple(x.shape)}")
        _hold(out.dtype == x.dtype, f"output {out.dtype} for input {x.dtype}")
        _hold(bool(out.isfinite().all()), "output is not finite")


def cross_attention_has_one_row_per_query(s: Subject) -> None:
    if "cross" not in s.settings.sites:
        raise DoesNotApply("not meant for cross-attention")
    x, context = rows(), rows(2, length=LENGTH + 4)
    out, aux = s.build()(x, context=context, key_mask=padding(length=LENGTH + 4), need_weights=True)
    _hold(out.shape == x.shape, f"output {tuple(out.shape)} for queries {tuple(x.shape)}")
    _hold(
        aux.weights is not None and aux.weights.shape[-2:] == (LENGTH, LENGTH + 4), "the map is not (B,H,N,M)"
    )


def the_map_has_its_shape_and_is_zero_where_nothing_may_be_attended(s: Subject) -> None:
    for causal, training in itertools.product(s.causal_modes, (False, True)):
        _, aux = s.build(causal, training=training)(rows(), key_mask=padding(), need_weights=True)
        weights = aux.weights
        assert weights is not None
        _hold(weights.shape[:3] == (BATCH, HEADS, LENGTH), f"the map has shape {tuple(weights.shape)}")
        own = weights[..., weights.shape[-1] - LENGTH :]  # what stands before is extra slots
        hidden = ~padding()[:, None, None, :].expand_as(own)
        if causal:
            hidden = hidden | torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        _hold(bool((own[hidden] == 0).all()), f"weight {own[hidden].abs().max():.2g} on padding or future")
        _hold(bool(weights.isfinite().all()), "the map is not finite")


def padding_never_changes_the_output(s: Subject) -> None:
    real = padding()
    for causal, kernel, training in itertools.product(s.causal_modes, ("auto", "reference"), (False, True)):
        carried = s.build(causal, kernel, training=training)
        x = rows().requires_grad_()
        out, _ = carried(x, key_mask=real)
        other, _ = carried(torch.where(real[..., None], x, rows(5) * 7), key_mask=real)
        _same(out[real], other[real], 1e-12, f"causal={causal}, {kernel}: padding changed the output")
        (slope,) = torch.autograd.grad(out[real].sum(), x)
        _hold(bool((slope[~real] == 0).all()), f"causal={causal}, {kernel}: gradient reaches padding")


def future_never_changes_the_output(s: Subject) -> None:
    if True not in s.causal_modes:
        raise DoesNotApply(s.mechanism.refuses_causal(s.settings) or "")
    for kernel, training, mask in itertools.product(
        ("auto", "fused", "reference"), (False, True), (None, padding())
    ):
        if kernel == "fused" and not s.fuses(True, training):
            continue
        carried = s.build(True, kernel, training=training)
        for now in (0, LENGTH // 2, LENGTH - 2):
            x = rows().requires_grad_()
            out, _ = carried(x, key_mask=mask)
            later = torch.arange(LENGTH) > now
            other, _ = carried(torch.where(later[:, None], rows(5) * 7, x), key_mask=mask)
            _same(
                out[:, : now + 1],
                other[:, : now + 1],
                1e-12,
                f"{kernel}: a token after {now} changed the output",
            )
            (slope,) = torch.autograd.grad(out[:, : now + 1].sum(), x)
            _hold(bool((slope[:, now + 1 :] == 0).all()), f"{kernel}: gradient reaches tokens after {now}")


def rows_without_a_valid_key_give_zeros(s: Subject) -> None:
    mask = padding()
    mask[1] = False
    for causal, kernel, training in itertools.product(
        s.causal_modes, ("auto", "fused", "reference"), (False, True)
    ):
        if kernel == "fused" and not s.fuses(causal, training):
            continue
        x = rows().requires_grad_()
        carried = s.build(causal, kernel, training=training)
        out, _ = carried(x, key_mask=mask)
        where = f"causal={causal}, {kernel}"
        _hold(
            bool((out[1] == 0).all()),
            f"{where}: output {out[1].abs().max():.2g} where nothing may be attended",
        )
        _hold(not causal or bool((out[0, :2] == 0).all()), f"{where}: output before the first valid key")
        out.sum().backward()
        grads = [x.grad, *(p.grad for p in carried.parameters())]
        _hold(
            all(bool(g.isfinite().all()) for g in grads if g is not None), f"{where}: gradient is not finite"
        )


def gradients_reach_every_parameter(s: Subject) -> None:
    for causal in s.causal_modes:
        carried = s.build(causal)
        out, aux = carried(rows())
        (out * rows(7)).sum().add(sum(aux.losses.values(), torch.zeros(()))).backward()
        missing = [n for n, p in carried.named_parameters() if p.grad is None]
        _hold(not missing, f"no gradient at {', '.join(missing)}")
        # what plain attention owns may rightly have none: a softmax does not see the bias of k
        silent = [
            n for n, p in carried.own_parameters().items() if p.grad is None or not p.grad.abs().sum() > 0
        ]
        _hold(not silent, f"the gradient is zero at {', '.join(silent)}")


def gradients_agree_with_finite_differences(s: Subject) -> None:
    for causal, kernel in itertools.product(s.causal_modes, ("fused", "reference")):
        if kernel == "fused" and not s.fuses(causal, True):
            continue
        carried, x = s.build(causal, kernel), rows(batch=2, length=5).requires_grad_()
        own = carried.own_parameters()
        for parameter in carried.parameters():
            parameter.requires_grad_(False)
        names, values = list(own), [p.detach().clone().requires_grad_() for p in own.values()]

        def call(x: Tensor, *values: Tensor, carried: Carried = carried, names: list[str] = names) -> Tensor:
            return torch.func.functional_call(carried, dict(zip(names, values, strict=True)), (x,))[0]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ok = torch.autograd.gradcheck(
                call, (x, *values), raise_exception=False, eps=1e-6, atol=1e-5, rtol=1e-4, fast_mode=True
            )
        _hold(ok, f"causal={causal}, {kernel}: the gradient is not the derivative of the output")


def a_generator_decides_every_draw(s: Subject) -> None:
    for causal in s.causal_modes:
        carried = s.build(causal)
        before = torch.random.get_rng_state()
        first, second = carried(rows(), seed=3)[0], carried(rows(), seed=3)[0]
        _hold(torch.equal(first, second), "the same generator gave two outputs")
        _hold(
            torch.equal(before, torch.random.get_rng_state()),
            "the global random state was used beside the generator",
        )


def evaluation_draws_nothing(s: Subject) -> None:
    for causal in s.causal_modes:
        carried = s.build(causal, training=False)
        before = torch.random.get_rng_state()
        first, second = carried(rows(), seed=None)[0], carried(rows(), seed=9)[0]
        _hold(torch.equal(first, second), "two evaluations of the same input differ")
        _hold(torch.equal(before, torch.random.get_rng_state()), "evaluation uses the global random state")


def what_acts_in_training_only_evaluates_as_softmax_to_the_bit(s: Subject) -> None:
    for causal, kernel in itertools.product(s.causal_modes, ("auto", "reference")):
        carried = s.build(causal, kernel, dtype=torch.float32, training=False)
        if carried.layer.mechanism[s.mechanism.name].active(False):  # type: ignore[operator]
            raise DoesNotApply("it acts in evaluation as well")
        x = rows(dtype=torch.float32)
        plain, _ = s.plain(carried, kernel)(x, key_mask=padding())
        _hold(
            torch.equal(carried(x, key_mask=padding())[0], plain),
            f"causal={causal}, {kernel}: not plain softmax",
        )


def fused_equals_reference(s: Subject) -> None:
    modes = s.fused_modes()
    if not modes:
        raise DoesNotApply("it has no fused form")
    for (causal, training), mask, dtype in itertools.product(modes, (None, padding()), VALUE_TOLERANCE):
        fused, reference = (s.build(causal, kernel, dtype, training) for kernel in ("fused", "reference"))
        seen = []
        for carried in (fused, reference):
            x = rows(dtype=dtype).requires_grad_()
            out, aux = carried(x, key_mask=mask)
            (out * rows(7, dtype=dtype)).sum().backward()
            seen.append((aux.stats["path"], out, x.grad, *(p.grad for p in carried.parameters())))
        _hold(seen[0][0] != "reference", "the recorded path of kernel='fused' is 'reference'")
        _hold(seen[1][0] == "reference", f"the recorded path of kernel='reference' is {seen[1][0]!r}")
        # some gradients are a cancelled sum (that of k's bias is 0), so all are held to the largest entry
        scale = max(1.0, *(t.abs().max().item() for t in seen[1][1:]))
        for a, b in zip(seen[0][1:], seen[1][1:], strict=True):
            where = f"causal={causal}, training={training}, {dtype}"
            _same(a, b, VALUE_TOLERANCE[dtype] * scale, f"{where}: the two paths differ")


def kernel_fused_names_the_stage_that_has_none(s: Subject) -> None:
    missing = [(c, t) for c in s.causal_modes for t in (False, True) if not s.fuses(c, t)]
    if not missing:
        raise DoesNotApply("every mode has a fused form")
    for causal, training in missing:
        try:
            s.build(causal, "fused", training=training)(rows())
        except UsageError as error:
            _hold(
                "stage" in str(error) and s.mechanism.name in str(error), f"the error names no stage: {error}"
            )


def bfloat16_stays_finite(s: Subject) -> None:
    for causal in s.causal_modes:
        carried, x = s.build(causal, dtype=torch.bfloat16), rows(dtype=torch.bfloat16).requires_grad_()
        out, _ = carried(x, key_mask=padding())
        _hold(out.dtype == torch.bfloat16, f"output is {out.dtype} in a bfloat16 layer")
        out.float().sum().backward()
        grads = [out, x.grad, *(p.grad for p in carried.parameters())]
        _hold(
            all(bool(g.isfinite().all()) for g in grads if g is not None), "output or gradient is not finite"
        )


def a_single_token_works(s: Subject) -> None:
    for causal, training in itertools.product(s.causal_modes, (False, True)):
        out, _ = s.build(causal, training=training)(rows(length=1))
        _hold(bool(out.isfinite().all()), "output of a sequence of length 1 is not finite")


def examples_of_a_batch_do_not_see_each_other(s: Subject) -> None:
    for causal in s.causal_modes:
        carried, x = s.build(causal, training=False), rows()
        whole, _ = carried(x, key_mask=padding())
        for i in range(BATCH):
            alone, _ = carried(x[i : i + 1], key_mask=padding()[i : i + 1])
            _same(
                alone[0],
                whole[i],
                1e-12,
                f"causal={causal}: example {i} alone differs from itself in a batch",
            )


def decoding_token_by_token_equals_the_whole_pass(s: Subject) -> None:
    if True not in s.causal_modes or "rows_independent" in s.mechanism.breaks_of(s.settings):
        raise DoesNotApply("it can not be causal, or its rows depend on each other")
    carried, x = s.build(True, training=False), rows()
    whole, _ = carried(x)
    state: dict = {}
    for i in range(LENGTH):
        out, aux = carried(x[:, i : i + 1], state=state)
        _hold(aux.state is not None, "aux.state is None while decoding")
        state = aux.state or {}
        _same(out[:, 0], whole[:, i], 1e-10, f"token {i} decoded by itself differs from the whole pass")


def saving_and_loading_keeps_the_output(s: Subject) -> None:
    first, second = s.build(training=False, seed=0), s.build(training=False, seed=1)
    out, _ = first(rows())
    second.load_state_dict(first.state_dict())
    _hold(torch.equal(second(rows())[0], out), "the output changed through state_dict and load_state_dict")
    _hold(torch.equal(copy.deepcopy(first)(rows())[0], out), "a deep copy gives another output")
    try:
        state = pickle.loads(pickle.dumps(first.state_dict()))
    except Exception as error:
        raise Failed(f"the state does not pickle: {error!r}") from error
    _hold(state.keys() == first.state_dict().keys(), "the state changed by pickling")


def initial_weights_follow_from_the_seed(s: Subject) -> None:
    first, second = s.build(seed=0, randomised=False), s.build(seed=1, randomised=False)
    for carried in (first, second):
        seed_parameters(carried, 11)
    _hold(
        _equal(first, second),
        "two builds seeded alike differ: a module that owns parameters lacks reset_parameters()",
    )
    before = torch.random.get_rng_state()
    seed_parameters(first, 11)
    _hold(torch.equal(before, torch.random.get_rng_state()), "initialising used the global random state")


def a_host_leaves_the_mechanism_its_own_initialisation(s: Subject) -> None:
    """In a whole encoder, every module of the mechanism still has what its own `reset_parameters` gave it."""
    own = {n: p.detach().clone() for n, p in s.build(randomised=False).own_parameters().items()}
    if not own:
        raise DoesNotApply("it has no parameters")
    network = _Hosted(s)
    seed_parameters(network, 3)
    after = {
        n: p.detach().clone()
        for n, p in network.named_parameters()
        if n.startswith("block.attention.mechanism")
    }
    modules = dict(network.named_modules())
    for name in sorted(modules, key=lambda n: -n.count(".")):
        reset = getattr(modules[name], "reset_parameters", None)
        if name.startswith("block.attention.mechanism") and callable(reset):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(stable_seed(3, name))
                reset()
    changed = [n for n, t in after.items() if not torch.equal(t, network.get_parameter(n))]
    _hold(not changed, f"the host overwrote {', '.join(changed)}")


def whatever_is_not_its_own_is_what_plain_attention_has(s: Subject) -> None:
    carried = s.build()
    own = {n.removeprefix("layer.") for n in carried.own_parameters()}
    left = {n for n, _ in carried.layer.named_parameters()} - own
    plain = {f"{map_}.{part}" for map_ in ("q", "k", "v", "out") for part in ("weight", "bias")}
    _hold(left == plain, f"beside its own parameters the layer has {sorted(left ^ plain)}")
    count = sum(p.numel() for p in carried.layer.parameters()) - sum(
        p.numel() for n, p in carried.layer.named_parameters() if n in own
    )
    _hold(count == 4 * (WIDTH * WIDTH + WIDTH), f"{count} parameters of the projections")


def its_flops_are_at_least_those_of_plain_attention(s: Subject) -> None:
    carried = s.build()
    plain = s.plain(carried, "auto")
    for n, training in itertools.product((1, 8, 64), (False, True)):
        ours = carried.layer.flops(n, training=training)
        _hold(ours == ours and 0 < ours < float("inf"), f"flops({n}) is {ours}")
        cheaper = (
            "project" in s.mechanism.stages or "score" in s.mechanism.stages or "mix" in s.mechanism.stages
        )
        _hold(
            cheaper or ours >= plain.flops(n),
            f"flops({n}) is {ours}, below plain attention's {plain.flops(n)}",
        )


class _Hosted(nn.Module):
    """The mechanism in a block of the encoder host."""

    def __init__(self, s: Subject) -> None:
        super().__init__()
        from attnbench.hosts import HostConfig
        from attnbench.hosts.block import Block

        layer: AttentionLayer = s.build(dtype=torch.float32, randomised=False).layer
        self.block = Block(HostConfig(kind="encoder", layers=1, width=WIDTH, heads=HEADS), layer)


def _hold(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Failed(otherwise)


def _same(a: Tensor, b: Tensor, tolerance: float, otherwise: str) -> None:
    gap = (a - b).abs().max().item() if a.numel() else 0.0
    if not gap <= tolerance:
        raise Failed(f"{otherwise} by {gap:.2g} (allowed {tolerance:.0e})")


def _equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
