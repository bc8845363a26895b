"""AttentionDrop: the unit-test oracles and the decisions of its reference sheet."""

import itertools
import math

import pytest
import torch

from attnbench.attention import build, mechanisms
from attnbench.attention.context import Context, Valid
from attnbench.attention.kernels.hard_mask import stable_topk
from attnbench.attention.perturb.attentiondrop_blur import gaussian
from attnbench.errors import UsageError
from tests.attention.layers import BATCH, HEADS, close, layer, padding, rows, run, seeded

HARD, BLUR = "attentiondrop_hard", "attentiondrop_blur"


def context_of(n, m, causal=False, mask=None):
    """A context for calling a stage by itself."""
    q, k = torch.arange(n), torch.arange(m)
    x = rows(length=n)
    return Context(
        x=x, source=x, cross=False, visible=Valid(mask, causal, q, k), heads=HEADS, layer=0, layers=1,
        training=True, scale=1.0, projections={}, generator=seeded(), shared=None, probing=True,
    )  # fmt: skip


def perturbed(spec, logits, mask=None, **call):
    """The perturb stage on given logits."""
    (mechanism,) = layer(spec, max_length=logits.shape[-1]).mechanism.values()
    return mechanism.perturb(context_of(logits.shape[2], logits.shape[3], mask=mask, **call), logits)


def random_logits(m=12, n=5):
    return torch.randn(BATCH, HEADS, n, m, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "spec", [{"name": HARD, "p": 0.0}, {"name": BLUR, "sigma_max": 0.0}, {"name": BLUR, "w": 1}], ids=str
)
def test_without_strength_it_is_plain_attention_to_the_bit(spec, causal):
    ours, plain = layer(spec, causal=causal), layer("softmax", causal=causal)
    assert torch.equal(ours(rows())[0], plain(rows())[0])


@pytest.mark.parametrize("kernel", ["auto", "reference"])
@pytest.mark.parametrize("name", [HARD, BLUR])
def test_evaluation_equals_plain_attention_to_the_bit(name, kernel):
    ours, plain = layer(name, kernel=kernel).eval(), layer("softmax", kernel=kernel).eval()
    assert torch.equal(ours(rows())[0], plain(rows())[0])
    assert torch.equal(ours(rows(), key_mask=padding())[0], plain(rows(), key_mask=padding())[0])
    assert not list(ours.mechanism.parameters())


def test_a_tiny_sigma_is_the_identity_and_never_overflows():
    assert gaussian(torch.tensor([0.0, 1e-9, 9e-4], dtype=torch.float64), 5).tolist() == [[0, 0, 1, 0, 0]] * 3
    logits = random_logits()
    assert torch.equal(perturbed({"name": BLUR, "sigma_max": 5e-4}, logits), logits)


def test_the_kernel_sums_to_one_and_has_the_sheets_values():
    for w, wanted in ((3, [0.274, 0.452, 0.274]), (5, [0.054, 0.244, 0.403, 0.244, 0.054])):
        g = gaussian(torch.ones(1, dtype=torch.float64), w)[0]
        assert g.sum().item() == pytest.approx(1, abs=1e-15)
        assert [round(x, 3) for x in g.tolist()] == wanted


def test_w_and_sigma_are_confounded_beyond_six_sigma():
    nine, fifteen = (gaussian(torch.ones(1, dtype=torch.float64), w)[0] for w in (9, 15))
    close(torch.nn.functional.pad(nine, (3, 3)), fifteen, 1e-3)


@pytest.mark.parametrize("mask", [None, padding(length=12)], ids=["whole", "padded"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_normalised_blur_leaves_a_constant_row_alone(mask, causal):
    logits = torch.full((BATCH, HEADS, 12, 12), 3.25, dtype=torch.float64)
    blurred = perturbed({"name": BLUR, "w": 5, "sigma_max": 2.0}, logits, mask, causal=causal)
    valid = Valid(mask, causal, torch.arange(12), torch.arange(12)).dense.expand_as(logits)
    close(blurred[valid], logits[valid])


def test_a_normalised_blur_commutes_with_a_row_shift_and_a_zero_padded_one_does_not():
    logits = random_logits()
    for edges, commutes in (("normalised", True), ("zero", False)):
        spec = {"name": BLUR, "edges": edges, "sigma_max": 2.0}
        shifted = perturbed(spec, logits + 4.0) - perturbed(spec, logits)
        assert torch.allclose(shifted, torch.full_like(shifted, 4.0)) is commutes


def test_p_one_with_neginf_and_k_one_removes_the_largest():
    logits = random_logits()
    out = perturbed({"name": HARD, "p": 1.0, "k": 1, "mask_value": "neginf"}, logits)
    best = logits.argmax(-1, keepdim=True)
    assert torch.isneginf(out.gather(-1, best)).all()
    assert torch.isneginf(out).sum() == best.numel()


def test_a_row_shift_changes_the_zero_form_and_not_the_neginf_form():
    logits = random_logits()
    for value, changes in (("zero", True), ("neginf", False), ("rowmin", False)):
        spec = {"name": HARD, "p": 1.0, "k": 3, "mask_value": value}
        a, b = (perturbed(spec, logits + c).softmax(-1) for c in (0.0, 4.0))
        assert (not torch.allclose(a, b)) is changes
    centred = {"name": HARD, "p": 1.0, "k": 3, "center_rows": True}
    assert torch.allclose(*(perturbed(centred, logits + c).softmax(-1) for c in (0.0, 4.0)))


def test_on_rows_of_negative_mean_the_dropped_keys_gain_weight():
    """The sheet's simulation: 197 keys of SD 1, k = 20, p = 0.5."""
    shares = {}
    for mean in (0.0, -6.0):
        logits = random_logits(m=197, n=40) + mean
        (mechanism,) = layer({"name": HARD, "p": 0.5, "k": 20}, max_length=197).mechanism.values()
        c = context_of(40, 197)
        out = mechanism.perturb(c, logits)
        dropped = out != logits
        before = (logits.softmax(-1) * dropped).sum(-1).mean().item()
        after = (out.softmax(-1) * dropped).sum(-1).mean().item()
        shares[mean] = c.stats[f"{HARD}.mass_rises"]
        assert before == pytest.approx(0.19, abs=0.02)
        assert after == pytest.approx({0.0: 0.04, -6.0: 0.94}[mean], abs=0.03)
    assert shares[0.0] < 0.01
    assert shares[-6.0] > 0.99


@pytest.mark.parametrize("kernel", ["fused", "reference"])
@pytest.mark.parametrize("value", ["zero", "neginf", "rowmin"])
def test_no_gradient_passes_a_dropped_logit(kernel, value):
    """Where everything is dropped q and k no longer matter (neginf keeps one key, of weight 1); the "
    "values do."""
    built = layer({"name": HARD, "p": 1.0, "k": 1.0, "mask_value": value}, kernel=kernel)
    run(built, rows())
    assert built.q.weight.grad.abs().max() < 1e-13
    assert built.k.weight.grad.abs().max() < 1e-13
    assert built.v.weight.grad.abs().max() > 0


def test_neginf_keeps_at_least_one_key():
    built = layer({"name": HARD, "p": 1.0, "k": 1.0, "mask_value": "neginf"}, causal=True)
    _, aux = built(rows(), key_mask=padding(), need_weights=True, generator=seeded())
    live = padding().cumsum(-1) > 0
    sums = aux.weights.sum(-1)
    assert torch.allclose(sums, live[:, None].to(sums.dtype).expand_as(sums))


def test_ties_go_to_the_lower_index():
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0, float("-inf")]])
    assert stable_topk(scores, 2).tolist() == [[1, 2]]
    assert stable_topk(scores, 4).tolist() == [[1, 2, 4, 3]]
    assert stable_topk(torch.zeros(1, 300), 3).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("k", "keys", "wanted"), [(0.1, 5, 1), (0.1, 17, 2), (0.25, 10, 2), (3, 10, 3), (30, 10, 10), (1.0, 7, 7)]
)
def test_k_is_a_share_of_the_valid_keys_or_a_count_and_is_logged(k, keys, wanted):
    built = layer({"name": HARD, "k": k, "p": 1.0, "mask_value": "zero"}, max_length=keys)
    _, aux = built(rows(length=keys), generator=seeded())
    assert aux.stats[f"{HARD}.k"] == wanted


def test_each_causal_row_drops_its_own_share():
    logits = random_logits(m=20, n=20)
    out = perturbed({"name": HARD, "k": 0.5, "p": 1.0}, logits, causal=True)
    past = torch.ones(20, 20, dtype=torch.bool).tril()
    dropped = ((out != logits) & past).sum(-1)
    assert torch.equal(
        dropped, torch.tensor([max(1, round(0.5 * (i + 1))) for i in range(20)]).expand_as(dropped)
    )
    assert torch.equal(out[..., ~past], logits[..., ~past])


def test_rescaling_touches_only_the_kept_ones_of_the_top():
    logits = random_logits()
    plain = perturbed({"name": HARD, "k": 4, "p": 0.5}, logits)
    scaled = perturbed({"name": HARD, "k": 4, "p": 0.5, "rescale": True}, logits)
    ratio = torch.where(plain == 0, 1.0, scaled / torch.where(plain == 0, 1.0, plain))
    assert set(ratio.unique().round(decimals=9).tolist()) == {1.0, 2.0}
    assert ((ratio == 2) | (plain == 0)).sum(-1).unique().tolist() == [4]


def test_coins_may_be_shared_by_heads_or_keys():
    logits = random_logits(n=12)
    for granularity, dims in (("head", (1,)), ("key", (1, 2))):
        dropped = perturbed({"name": HARD, "k": 1.0, "p": 0.5, "granularity": granularity}, logits) == 0
        for dim in dims:
            assert torch.equal(dropped, dropped.narrow(dim, 0, 1).expand_as(dropped))
    entry = perturbed({"name": HARD, "k": 1.0, "p": 0.5}, logits) == 0
    assert not torch.equal(entry, entry[:, :1].expand_as(entry))


def test_the_control_arm_drops_as_many_keys_at_random():
    logits = random_logits()
    out = perturbed({"name": HARD, "k": 3, "p": 1.0, "select": "random"}, logits)
    assert (out == 0).sum(-1).unique().tolist() == [3]
    best = (out.gather(-1, logits.argmax(-1, keepdim=True)) == 0).double().mean()
    assert best < 0.9


def test_in_probability_space_rows_are_renormalised():
    built = layer({"name": HARD, "space": "prob", "k": 3, "p": 0.7})
    _, aux = built(rows(), key_mask=padding(), need_weights=True, generator=seeded())
    sums = aux.weights.sum(-1)
    assert torch.allclose(sums[[0, 2]], torch.ones_like(sums[[0, 2]]))
    blurred = layer({"name": BLUR, "space": "prob", "alpha": 0.5}, causal=True)
    _, aux = blurred(rows(), need_weights=True, generator=seeded())
    assert torch.allclose(aux.weights.sum(-1), torch.ones(()).double())
    assert (aux.weights.triu(1) == 0).all()
    same = layer({"name": BLUR, "space": "prob", "alpha": 0.0})
    assert torch.equal(same(rows(), generator=seeded())[0], layer("softmax")(rows())[0])


def test_sigma_is_drawn_once_per_call_or_once_per_pass_of_the_network():
    def sigmas(**arm):
        built = [layer({"name": BLUR, **arm}, kernel="reference", layer=i, layers=2) for i in range(2)]
        shared, generators = {}, [seeded(i) for i in range(2)]
        maps = [
            b(rows(), generator=g, shared=shared, need_weights=True)[1].weights
            for b, g in zip(built, generators, strict=True)
        ]
        return torch.equal(maps[0], maps[1])

    assert not sigmas()
    assert sigmas(per_step_shared=True)


def test_a_sigma_per_head_blurs_heads_differently_and_stays_exact():
    spec = {"name": BLUR, "per_head": True}
    logits = random_logits()[:, :1].expand(BATCH, HEADS, 5, 12)
    out = perturbed(spec, logits)
    assert not torch.allclose(out[:, 0], out[:, 1])


def test_a_width_that_does_not_fit_is_cut_and_logged():
    for keys, wanted in ((4, 3), (5, 5), (9, 9)):
        _, aux = layer({"name": BLUR, "w": 9}, max_length=keys)(rows(length=keys), generator=seeded())
        assert aux.stats[f"{BLUR}.w"] == wanted
    with pytest.raises(
        UsageError, match=r"attentiondrop_blur: parameter 'w' is 4, but should be odd; 3 or 5"
    ):
        build({"name": BLUR, "w": 4}, width=8, heads=2)


@pytest.mark.parametrize("name", [HARD, BLUR])
def test_logits_are_float32_in_a_bfloat16_layer(name):
    built = layer(name, dtype=torch.bfloat16, kernel="reference")
    seen = []
    (mechanism,) = built.mechanism.values()
    perturb = mechanism.perturb
    mechanism.perturb = lambda c, logits: seen.append(logits.dtype) or perturb(c, logits)
    built(rows(dtype=torch.bfloat16), generator=seeded())
    assert seen == [torch.float32]


def test_only_encoder_self_attention_unless_asked():
    for name in (HARD, BLUR):
        assert mechanisms()[name].schema().sites == ["encoder_self"]
        assert not len(build(name, width=8, heads=2, site="cross").mechanism)
        assert len(build({"name": name, "sites": ["cross"]}, width=8, heads=2, site="cross").mechanism) == 1


@pytest.mark.parametrize("value", ["zero", "neginf", "rowmin"])
@pytest.mark.parametrize("causal", [False, True])
def test_tiles_agree_with_the_reference_across_their_borders(monkeypatch, value, causal):
    from attnbench.attention.kernels import hard_mask

    monkeypatch.setattr(hard_mask, "TILE", 60)  # 4 rows a tile for 15 keys
    spec = {"name": HARD, "k": 0.4, "p": 0.5, "mask_value": value}
    for mask in (None, padding(length=15)):
        fused, reference = (
            run(layer(spec, kernel=kernel, causal=causal, max_length=15), rows(length=15), key_mask=mask)
            for kernel in ("fused", "reference")
        )
        close(fused[0], reference[0], 1e-12)
        close(fused[1], reference[1], 1e-12)


def test_tiles_keep_less_for_the_backward_pass_than_the_map():
    def kept(kernel):
        sizes = []
        built = layer(HARD, kernel=kernel, max_length=256, dtype=torch.float32)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel() * t.element_size()) or t, lambda t: t
        ):
            built(rows(length=256, dtype=torch.float32), generator=seeded())
        return sum(sizes)

    assert kept("fused") < kept("reference") / 4


@pytest.mark.parametrize("w", [3, 5, 9])
@pytest.mark.parametrize("length", [1, 2, 4, 11])
def test_the_causal_band_is_exact_at_every_length(w, length):
    spec = {"name": BLUR, "w": w, "sigma_max": 3.0}
    for mask, edges in itertools.product((None, padding(length=length)), ("normalised", "zero")):
        fused, reference = (
            run(
                layer({**spec, "edges": edges}, kernel=kernel, causal=True, max_length=length),
                rows(length=length),
                key_mask=mask,
            )
            for kernel in ("fused", "reference")
        )
        close(fused[0], reference[0], 1e-12)
        close(fused[1], reference[1], 1e-12)


def test_ignoring_the_band_would_have_leaked():
    """What the exact form avoids: blurring k over future keys and trusting the causal flag."""
    from attnbench.attention.kernels.blurred_keys import Layout, blur_keys

    k = torch.randn(1, 1, 8, 4, dtype=torch.float64, requires_grad=True)
    blurred = blur_keys(k, None, gaussian(torch.ones(1, dtype=torch.float64), 5), Layout(), True)
    (slope,) = torch.autograd.grad(blurred[0, 0, 3].sum(), k)
    assert slope[0, 0, 5].abs().sum() > 0
    assert math.isclose(blurred.mean().item(), k.mean().item(), abs_tol=0.3)
