"""Checks of gradients, random draws, precisions, and of the two paths against each other."""

from __future__ import annotations

import itertools
import warnings

import torch
from torch import Tensor

from attnbench.conformance.outcome import DoesNotApply, hold, same
from attnbench.conformance.subject import Carried, Subject, padding, rows
from attnbench.errors import UsageError

VALUE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


def gradients_reach_every_parameter(s: Subject) -> None:
    for causal in s.causal_modes:
        carried = s.build(causal)
        out, aux = carried(rows())
        (out * rows(7)).sum().add(sum(aux.losses.values(), torch.zeros(()))).backward()
        missing = [n for n, p in carried.named_parameters() if p.grad is None]
        hold(not missing, f"no gradient at {', '.join(missing)}")
        # what plain attention owns may rightly have none: a softmax does not see the bias of k
        silent = [
            n for n, p in carried.own_parameters().items() if p.grad is None or not p.grad.abs().sum() > 0
        ]
        hold(not silent, f"the gradient is zero at {', '.join(silent)}")


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
        hold(ok, f"causal={causal}, {kernel}: the gradient is not the derivative of the output")


def a_generator_decides_every_draw(s: Subject) -> None:
    for causal in s.causal_modes:
        carried = s.build(causal)
        before = torch.random.get_rng_state()
        first, second = carried(rows(), seed=3)[0], carried(rows(), seed=3)[0]
        hold(torch.equal(first, second), "the same generator gave two outputs")
        hold(
            torch.equal(before, torch.random.get_rng_state()),
            "the global random state was used beside the generator",
        )


def evaluation_draws_nothing(s: Subject) -> None:
    for causal in s.causal_modes:
        carried = s.build(causal, training=False)
        before = torch.random.get_rng_state()
        first, second = carried(rows(), seed=None)[0], carried(rows(), seed=9)[0]
        hold(torch.equal(first, second), "two evaluations of the same input differ")
        hold(torch.equal(before, torch.random.get_rng_state()), "evaluation uses the global random state")


def what_acts_in_training_only_evaluates_as_softmax_to_the_bit(s: Subject) -> None:
    for causal, kernel in itertools.product(s.causal_modes, ("auto", "reference")):
        carried = s.build(causal, kernel, dtype=torch.float32, training=False)
        if carried.layer.mechanism[s.mechanism.name].active(False):  # type: ignore[operator]
            raise DoesNotApply("it acts in evaluation as well")
        x = rows(dtype=torch.float32)
        plain, _ = s.plain(carried, kernel)(x, key_mask=padding())
        hold(
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
        hold(seen[0][0] != "reference", "the recorded path of kernel='fused' is 'reference'")
        hold(seen[1][0] == "reference", f"the recorded path of kernel='reference' is {seen[1][0]!r}")
        # some gradients are a cancelled sum (that of k's bias is 0), so all are held to the largest entry
        scale = max(1.0, *(t.abs().max().item() for t in seen[1][1:]))
        for a, b in zip(seen[0][1:], seen[1][1:], strict=True):
            where = f"causal={causal}, training={training}, {dtype}"
            same(a, b, VALUE_TOLERANCE[dtype] * scale, f"{where}: the two paths differ")


def kernel_fused_names_the_stage_that_has_none(s: Subject) -> None:
    missing = [(c, t) for c in s.causal_modes for t in (False, True) if not s.fuses(c, t)]
    if not missing:
        raise DoesNotApply("every mode has a fused form")
    for causal, training in missing:
        try:
            s.build(causal, "fused", training=training)(rows())
        except UsageError as error:
            hold(
                "stage" in str(error) and s.mechanism.name in str(error), f"the error names no stage: {error}"
            )


def bfloat16_stays_finite(s: Subject) -> None:
    for causal in s.causal_modes:
        carried, x = s.build(causal, dtype=torch.bfloat16), rows(dtype=torch.bfloat16).requires_grad_()
        out, _ = carried(x, key_mask=padding())
        hold(out.dtype == torch.bfloat16, f"output is {out.dtype} in a bfloat16 layer")
        out.float().sum().backward()
        grads = [out, x.grad, *(p.grad for p in carried.parameters())]
        hold(
            all(bool(g.isfinite().all()) for g in grads if g is not None), "output or gradient is not finite"
        )
