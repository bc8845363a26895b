"""Checks of shapes, and of what may not be seen: padding, future, other examples."""

from __future__ import annotations

import inspect
import itertools

import torch

from attnbench.conformance.outcome import DoesNotApply, hold, same
from attnbench.conformance.subject import BATCH, HEADS, LENGTH, Subject, padding, rows


def has_a_summary_equations_and_described_parameters(s: Subject) -> None:
    hold(bool(s.mechanism.summary), "`summary` is empty; one line for 'attnbench list attention'")
    hold(
        len(inspect.getdoc(s.mechanism) or "") > 80,
        "the class has no docstring with its equations and shapes",
    )
    bare = [n for n, f in s.mechanism.schema.model_fields.items() if not f.description]
    hold(not bare, f"parameters without a description: {', '.join(bare)}")


def output_has_the_shape_of_the_input(s: Subject) -> None:
    for causal, kernel, training in itertools.product(s.causal_modes, ("auto", "reference"), (False, True)):
        x = rows()
        out, _ = s.build(causal, kernel, training=training)(x)
        hold(out.shape == x.shape, f"output {tuple(out.shape)} for input {tuple(x.shape)}")
        hold(out.dtype == x.dtype, f"output {out.dtype} for input {x.dtype}")
        hold(bool(out.isfinite().all()), "output is not finite")


def cross_attention_has_one_row_per_query(s: Subject) -> None:
    if "cross" not in s.settings.sites:
        raise DoesNotApply("not meant for cross-attention")
    x, context = rows(), rows(2, length=LENGTH + 4)
    out, aux = s.build()(x, context=context, key_mask=padding(length=LENGTH + 4), need_weights=True)
    hold(out.shape == x.shape, f"output {tuple(out.shape)} for queries {tuple(x.shape)}")
    hold(
        aux.weights is not None and aux.weights.shape[-2:] == (LENGTH, LENGTH + 4), "the map is not (B,H,N,M)"
    )


def the_map_has_its_shape_and_is_zero_where_nothing_may_be_attended(s: Subject) -> None:
    for causal, training in itertools.product(s.causal_modes, (False, True)):
        _, aux = s.build(causal, training=training)(rows(), key_mask=padding(), need_weights=True)
        weights = aux.weights
        assert weights is not None
        hold(weights.shape[:3] == (BATCH, HEADS, LENGTH), f"the map has shape {tuple(weights.shape)}")
        own = weights[..., weights.shape[-1] - LENGTH :]  # what stands before is extra slots
        hidden = ~padding()[:, None, None, :].expand_as(own)
        if causal:
            hidden = hidden | torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        hold(bool((own[hidden] == 0).all()), f"weight {own[hidden].abs().max():.2g} on padding or future")
        hold(bool(weights.isfinite().all()), "the map is not finite")


def padding_never_changes_the_output(s: Subject) -> None:
    real = padding()
    for causal, kernel, training in itertools.product(s.causal_modes, ("auto", "reference"), (False, True)):
        carried = s.build(causal, kernel, training=training)
        x = rows().requires_grad_()
        out, _ = carried(x, key_mask=real)
        other, _ = carried(torch.where(real[..., None], x, rows(5) * 7), key_mask=real)
        same(out[real], other[real], 1e-12, f"causal={causal}, {kernel}: padding changed the output")
        (slope,) = torch.autograd.grad(out[real].sum(), x)
        hold(bool((slope[~real] == 0).all()), f"causal={causal}, {kernel}: gradient reaches padding")


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
            same(
                out[:, : now + 1],
                other[:, : now + 1],
                1e-12,
                f"{kernel}: a token after {now} changed the output",
            )
            (slope,) = torch.autograd.grad(out[:, : now + 1].sum(), x)
            hold(bool((slope[:, now + 1 :] == 0).all()), f"{kernel}: gradient reaches tokens after {now}")


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
        hold(
            bool((out[1] == 0).all()),
            f"{where}: output {out[1].abs().max():.2g} where nothing may be attended",
        )
        hold(not causal or bool((out[0, :2] == 0).all()), f"{where}: output before the first valid key")
        out.sum().backward()
        grads = [x.grad, *(p.grad for p in carried.parameters())]
        hold(
            all(bool(g.isfinite().all()) for g in grads if g is not None), f"{where}: gradient is not finite"
        )


def a_single_token_works(s: Subject) -> None:
    for causal, training in itertools.product(s.causal_modes, (False, True)):
        out, _ = s.build(causal, training=training)(rows(length=1))
        hold(bool(out.isfinite().all()), "output of a sequence of length 1 is not finite")


def examples_of_a_batch_do_not_see_each_other(s: Subject) -> None:
    for causal in s.causal_modes:
        carried, x = s.build(causal, training=False), rows()
        whole, _ = carried(x, key_mask=padding())
        for i in range(BATCH):
            alone, _ = carried(x[i : i + 1], key_mask=padding()[i : i + 1])
            same(
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
        hold(aux.state is not None, "aux.state is None while decoding")
        state = aux.state or {}
        same(out[:, 0], whole[:, i], 1e-10, f"token {i} decoded by itself differs from the whole pass")
