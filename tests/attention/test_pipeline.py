"""The pipeline: order of the stages, masks, paths, decoding, and what it refuses."""

import itertools

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from attnbench.attention import STAGES, Mechanism, Plan, build
from attnbench.attention.layer import AttentionLayer
from attnbench.attention.mechanism import LayerShape
from attnbench.errors import UsageError
from tests.attention.layers import BATCH, HEADS, LENGTH, WIDTH, close, layer, padding, rows, run, seeded


class Everything(Mechanism):
    """Provides all twelve stages (the mask is the pipeline's own) and notes the order in which they are "
    "asked."""

    name = "everything"
    summary = "notes the order of its stages"

    def __init__(self, settings, shape):
        super().__init__(settings, shape)
        self.asked = []

    def project(self, c):
        self.asked.append("project")
        return tuple(c.projections[n](c.x).view(BATCH, LENGTH, HEADS, -1).transpose(1, 2) for n in "qkv")

    def position(self, c, q, k):
        self.asked.append("position")
        return q, k

    def extend(self, c, k, v):
        self.asked.append("extend")
        return F.pad(k, (0, 0, 2, 0)), F.pad(v, (0, 0, 2, 0))

    def score(self, c, q, k):
        self.asked.append("score")
        assert c.k.shape == k.shape
        return q @ k.transpose(-1, -2) * c.scale

    def bias(self, c, logits):
        self.asked.append("bias")
        assert c.valid.expand_as(logits)[..., :2].all()
        return logits

    def perturb(self, c, logits):
        self.asked.append("perturb")
        assert logits.isfinite().all()
        return logits

    def normalise(self, c, logits):
        self.asked.append("normalise")
        assert torch.equal(logits.isneginf(), ~c.valid.expand_as(logits))
        return logits.softmax(-1)

    def reweight(self, c, weights):
        self.asked.append("reweight")
        return weights

    def mix(self, c, weights, v):
        self.asked.append("mix")
        return weights @ v

    def heads(self, c, heads):
        self.asked.append("heads")
        assert heads.shape == (BATCH, HEADS, LENGTH, WIDTH // HEADS)
        return heads

    def gate(self, c, merged):
        self.asked.append("gate")
        assert merged.shape == (BATCH, LENGTH, WIDTH)
        return merged

    def out(self, c, merged):
        self.asked.append("out")
        return c.projections["out"](merged)


def of(mechanism, **options):
    """A layer of a class that is not registered."""
    shape = LayerShape(WIDTH, HEADS, causal=options.pop("causal", False))
    return AttentionLayer([mechanism(mechanism.schema(), shape)], shape, **options).double()


@pytest.mark.parametrize("causal", [False, True])
def test_the_stages_are_asked_in_their_order(causal):
    built = of(Everything, causal=causal)
    assert Everything.stages == STAGES
    out, aux = built(rows(), key_mask=torch.ones(BATCH, LENGTH, dtype=torch.bool))
    assert built.mechanism["everything"].asked == list(STAGES)
    assert aux.stats["path"] == "reference"
    assert out.shape == (BATCH, LENGTH, WIDTH)
    built.mechanism["everything"].asked.clear()
    built.eval()(rows())
    assert "perturb" not in built.mechanism["everything"].asked


class Slots(Mechanism):
    """Two zero slots before the keys, with a fused form; and a stage behind it that may decline."""

    name = "slots"
    summary = "leading slots"
    declines = False

    def extend(self, c, k, v):
        return F.pad(k, (0, 0, 2, 0)), F.pad(v, (0, 0, 2, 0))

    def fuse_extend(self, c, plan: Plan):
        return plan.with_(
            k=F.pad(plan.k, (0, 0, 2, 0)), v=F.pad(plan.v, (0, 0, 2, 0)), visible=plan.visible.extended(2)
        )

    def reweight(self, c, weights):
        return weights

    def fuse_reweight(self, c, plan: Plan):
        return None if self.declines else plan


@pytest.mark.parametrize(("causal", "mask"), itertools.product((False, True), (None, padding())))
def test_extra_slots_are_seen_by_every_row_in_both_paths(causal, mask):
    fused, reference = of(Slots, causal=causal, kernel="fused"), of(Slots, causal=causal, kernel="reference")
    reference.load_state_dict(fused.state_dict())
    a, b = (run(one, rows(), key_mask=mask) for one in (fused, reference))
    close(a[0], b[0], 1e-12)
    close(a[1], b[1], 1e-12)
    _, aux = reference(rows(), key_mask=mask, need_weights=True)
    assert aux.weights.shape[-1] == LENGTH + 2
    assert (aux.weights[..., :2] > 0).all()


def test_a_plan_that_is_given_up_leaves_no_trace():
    declining = type("Declining", (Slots,), {"declines": True})
    built, reference = of(declining, causal=True), of(Slots, causal=True, kernel="reference")
    reference.load_state_dict(built.state_dict())
    out, aux = built(rows(), key_mask=padding())
    assert aux.stats["path"] == "reference"
    assert torch.equal(out, reference(rows(), key_mask=padding())[0])


def test_a_plan_that_is_given_up_leaves_the_reference_its_random_numbers():
    spec = ["attentiondrop_hard", "dropout"]  # hard can be fused, dropout can not
    auto, reference = layer(spec), layer(spec, kernel="reference")
    assert torch.equal(auto(rows(), generator=seeded())[0], reference(rows(), generator=seeded())[0])


def test_alibi_gives_slots_no_penalty():
    class WithSlots(Slots):
        name = "with_slots"

    shape = LayerShape(WIDTH, HEADS)
    from attnbench.attention.bias.alibi import Alibi, AlibiParameters

    built = [
        AttentionLayer(
            [WithSlots(WithSlots.schema(), shape), Alibi(AlibiParameters(), shape)], shape, kernel
        ).double()
        for kernel in ("fused", "reference")
    ]
    built[1].load_state_dict(built[0].state_dict())
    close(*(one(rows())[0].detach() for one in built))


class Recorder(TorchDispatchMode):
    """The attention operations that really ran."""

    def __init__(self):
        super().__init__()
        self.ops = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops.add(func.name())
        return func(*args, **(kwargs or {}))


class LearnedBias(Mechanism):
    """A bias that wants a gradient: the CPU's fused kernel has none."""

    name = "learned_bias"
    summary = "a learned bias"

    def __init__(self, settings, shape):
        super().__init__(settings, shape)
        self.table = torch.nn.Parameter(torch.randn(1, HEADS, LENGTH, LENGTH))

    def bias(self, c, logits):
        return logits + self.table

    def fuse_bias(self, c, plan):
        return plan.with_(bias=self.table)


@pytest.mark.parametrize("mask", [None, padding()], ids=["whole", "padded"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["softmax", "alibi", "relaxed", "attentiondrop_blur", "learned_bias"])
def test_the_recorded_path_is_the_operation_that_ran(name, causal, mask):
    built = (
        of(LearnedBias, causal=causal)
        if name == "learned_bias"
        else layer(name, causal=causal, kernel="fused")
    )
    with Recorder() as recorder:
        path = built(rows(), key_mask=mask, generator=seeded())[1].stats["path"]
    flash = any("flash_attention_for_cpu" in op for op in recorder.ops)
    wanted = {"softmax": "flash_cpu", "alibi": "flash_cpu", "learned_bias": "math"}.get(name, "algebra+flash")
    assert path == wanted
    assert flash is (path != "math")
    if name == "learned_bias":
        with torch.no_grad(), Recorder() as recorder:
            assert built(rows(), key_mask=mask)[1].stats["path"] == "flash_cpu"
        assert any("flash_attention_for_cpu" in op for op in recorder.ops)


def test_the_path_belongs_to_composition_mode_and_request():
    def path(spec, training=True, length=LENGTH, **call):
        return (
            layer(spec, max_length=length)
            .train(training)(rows(length=length), generator=seeded(), **call)[1]
            .stats["path"]
        )

    assert path("dropout") == "reference"
    assert path("dropout", training=False) == "flash_cpu"
    assert path("attentiondrop_hard", training=False) == "flash_cpu"
    assert path("attentiondrop_hard", length=128) == "tiled"
    assert path("attentiondrop_hard", length=16) == "reference"  # quicker there
    assert path(["attentiondrop_hard", "relaxed"], length=128) == "algebra+tiled"
    assert path(["alibi", "attentiondrop_blur"]) == "reference"
    assert path(["attentiondrop_blur", "relaxed"]) == "algebra+flash"
    assert path("softmax", need_weights=True) == "reference"


@pytest.mark.parametrize("mask", [None, padding()], ids=["whole", "padded"])
@pytest.mark.parametrize("kernel", ["fused", "reference"])
@pytest.mark.parametrize("causal", [False, True])
def test_rows_without_a_valid_key_give_zeros_and_finite_gradients(causal, kernel, mask):
    built = layer("softmax", causal=causal, kernel=kernel)
    out, slope, _ = run(built, rows(), key_mask=mask)
    assert out.isfinite().all() and slope.isfinite().all()
    if mask is not None:
        assert (out[1] == 0).all()
        assert (slope[1] == 0).all()
        assert not causal or (out[0, 0] == 0).all()


def test_positions_decide_what_is_causal_and_how_far_keys_are():
    x, order = rows(), torch.randperm(LENGTH, generator=seeded())
    for spec, kernel in itertools.product(("softmax", "alibi"), ("fused", "reference")):
        built = layer(spec, causal=True, kernel=kernel)
        whole, _ = built(x)
        shuffled, _ = built(x[:, order], positions=order)
        close(shuffled.detach(), whole[:, order].detach())
        per_example, _ = built(x[:, order], positions=order.expand(BATCH, LENGTH))
        close(per_example.detach(), whole[:, order].detach())


@pytest.mark.parametrize(
    "spec", ["softmax", "alibi", "lam", {"name": "relaxed", "matched_inference": True}], ids=str
)
def test_decoding_in_any_pieces_equals_the_whole_pass(spec):
    built, x = layer(spec, causal=True).eval(), rows()
    whole, _ = built(x)
    for pieces in ([1] * LENGTH, [2, 1, 3], [LENGTH]):
        state, outputs = {}, []
        for piece in x.split(pieces, dim=1):
            out, aux = built(piece, state=state)
            outputs.append(out)
            state = aux.state
        close(torch.cat(outputs, dim=1).detach(), whole.detach(), 1e-12)
    assert built(x)[1].state is None


def test_decoding_with_padding_masks_the_cached_keys():
    built, x, mask = layer("softmax", causal=True).eval(), rows(), padding()
    whole, _ = built(x, key_mask=mask)
    _, aux = built(x[:, :4], key_mask=mask[:, :4], state={})
    out, _ = built(x[:, 4:], key_mask=mask, state=aux.state)
    close(out.detach(), whole[:, 4:].detach())


def test_wrong_calls_are_refused_in_one_line():
    built, causal, fused = layer("softmax"), layer("softmax", causal=True), layer("softmax", kernel="fused")
    x = rows()
    for call, words in [
        (lambda: built(rows(width=WIDTH + 1)), r"x has shape \(3, 6, 9\); it must be \(batch, length, 8\)"),
        (
            lambda: built(x, key_mask=torch.ones(BATCH, LENGTH)),
            r"key_mask is torch.float32 .* must be torch.bool of shape \(3, 6\)",
        ),
        (lambda: built(x, key_mask=padding(length=5)), r"key_mask is .*\(3, 5\); it must be .*\(3, 6\)"),
        (lambda: built(x, state={}), "state is for decoding, which needs causal"),
        (lambda: causal(x, context=x), "a causal layer takes no context"),
        (lambda: fused(x, need_weights=True), "need_weights with kernel='fused'"),
        (
            lambda: layer("dropout", kernel="fused")(x),
            "kernel='fused': dropout has no fused form of its stage 'reweight'",
        ),
        (
            lambda: layer(["alibi", "attentiondrop_blur"], kernel="fused")(x),
            "attentiondrop_blur has no fused form of its stage 'perturb'",
        ),
        (lambda: build("softmax", width=10, heads=4), "width 10 does not split into 4 heads"),
        (
            lambda: build("softmax", width=8, heads=2, kernel="fast"),
            "kernel is 'fast'; it must be one of auto, reference, fused",
        ),
        (lambda: build("softmax", width=8, heads=2, site="encoder"), "site is 'encoder'; it must be one of"),
        (lambda: build(["softmax"], width=8, heads=2, p=0.1), "parameters p beside a list"),
    ]:
        with pytest.raises(UsageError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_flops_follow_the_formula():
    d, h, n, m = 64, 4, 10, 20
    built = build("softmax", width=d, heads=h)
    assert built.flops(n, m) == 2 * d * d * (2 * n + 2 * m) + 4 * n * m * d + 5 * h * n * m + n * d
    lam = build("lam", width=d, heads=h, max_length=m)
    assert lam.flops(n, m) - built.flops(n, m) == 2 * n * (d * d + d * m) + h * n * m
    hard = build("attentiondrop_hard", width=d, heads=h)
    assert hard.flops(n, m, training=True) > hard.flops(n, m) == built.flops(n, m)
