"""LAM: the unit-test oracles and the decisions of its reference sheet."""

import pytest
import torch

from attnbench.attention import build, canonical, seed_parameters, shared_modules
from attnbench.errors import UsageError
from tests.attention.layers import BATCH, HEADS, LENGTH, WIDTH, close, layer, padding, rows, seeded

ARMS = [{}, {"combine": "add"}, {"activation": "2sigmoid"}, {"per_head": True}, {"n": 3}]


def constant_mask(value, **arm):
    """A layer whose mask is the same number everywhere."""
    built = layer({"name": "lam", **arm})
    last = built.mechanism["lam"].mask.linears[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, value)
    return built


def plain_of(built):
    own = built.mechanism_parameter_names()
    plain = build("softmax", width=WIDTH, heads=HEADS, causal=built.causal).double()
    plain.load_state_dict({n: t for n, t in built.state_dict().items() if n not in own})
    return plain


@pytest.mark.parametrize("mask", [None, padding()], ids=["whole", "padded"])
def test_a_mask_of_ones_is_plain_attention(mask):
    built = constant_mask(1.0)
    real = slice(None) if mask is None else mask
    close(
        built(rows(), key_mask=mask)[0][real].detach(),
        plain_of(built)(rows(), key_mask=mask)[0][real].detach(),
    )


def test_a_mask_of_zeros_gives_uniform_weights_over_the_valid_keys():
    _, aux = constant_mask(0.0)(rows(), key_mask=padding(), need_weights=True)
    counts = padding().sum(-1).clamp(min=1)[:, None, None, None]
    close(aux.weights.detach(), (padding()[:, None, None] / counts).expand(BATCH, HEADS, LENGTH, LENGTH))


def test_adding_a_constant_is_plain_attention():
    built = constant_mask(3.7, combine="add")
    close(built(rows())[0].detach(), plain_of(built)(rows())[0].detach())


@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_rows_sum_to_one_and_padding_weighs_nothing_whatever_the_sign(arm):
    built = layer({"name": "lam", **arm}, scale=3.0)
    _, aux = built(rows(), key_mask=padding(), need_weights=True)
    close(aux.weights[[0, 2]].sum(-1).detach(), torch.ones(2, HEADS, LENGTH))
    assert (aux.weights[~padding()[:, None, None].expand_as(aux.weights)] == 0).all()
    if not arm:
        assert 0.1 < aux.stats["lam.negative_share"] < 0.9
        assert aux.stats["lam.mean_abs"] > 0


@pytest.mark.parametrize(
    ("width", "length", "wanted"), [(192, 65, 49_601), (64, 17, 5_265), (512, 512, 525_312)]
)
def test_the_parameter_count_is_the_sheets(width, length, wanted):
    built = build("lam", width=width, heads=4, max_length=length)
    assert sum(p.numel() for p in built.mechanism.parameters()) == wanted
    hidden = width
    assert wanted == width * hidden + hidden + hidden * length + length


def test_the_identity_start_is_plain_attention_for_every_activation_and_rule():
    for combine in ("multiply", "add"):
        for activation in ("none", "softplus", "2sigmoid", "exp"):
            built = build(
                {"name": "lam", "init": "identity", "combine": combine, "activation": activation},
                width=WIDTH, heads=HEADS, max_length=LENGTH,
            ).double()  # fmt: skip
            seed_parameters(built, 3)
            close(built(rows())[0].detach(), plain_of(built)(rows())[0].detach(), 1e-6)


def test_the_first_gradient_reaches_the_first_layer_only_without_the_identity_start():
    for init, reaches in (("literal", True), ("identity", False)):
        built = build({"name": "lam", "init": init}, width=WIDTH, heads=HEADS, max_length=LENGTH).double()
        seed_parameters(built, 3)
        first, last = built.mechanism["lam"].mask.linears
        optimiser = torch.optim.SGD(built.parameters(), lr=0.1)
        gradients = []
        for _ in range(2):
            optimiser.zero_grad()
            built(rows())[0].square().sum().backward()
            gradients.append(first.weight.grad.abs().sum().item())
            assert last.weight.grad.abs().sum() > 0
            optimiser.step()
        assert (gradients[0] > 0) is reaches
        assert gradients[1] > 0


def test_slicing_a_longer_mask_equals_padding_to_its_length():
    built, x = layer("lam", max_length=LENGTH + 4), rows()
    padded = torch.cat([x, rows(8, length=4)], dim=1)
    mask = torch.ones(BATCH, LENGTH + 4, dtype=torch.bool)
    mask[:, LENGTH:] = False
    close(built(x)[0].detach(), built(padded, key_mask=mask)[0][:, :LENGTH].detach())


def test_more_keys_than_the_mask_has_columns_is_an_error():
    with pytest.raises(
        UsageError, match=f"lam: {LENGTH + 1} keys, but its mask was built for max_length {LENGTH}"
    ):
        layer("lam")(rows(length=LENGTH + 1))


def two_layers(scope, **arm):
    """Two layers with what their network owns; as `multi`, both hold the weights that `single` has once."""
    spec = {"name": "lam", "scope": scope, **arm}
    owned = shared_modules(spec, width=WIDTH, heads=HEADS, layers=2, max_length=LENGTH).double()
    layers = [layer(spec, seed=4, layer=i, layers=2) for i in range(2)]
    return layers, owned


def through(layers, owned, x):
    shared = {"embedded": x, "modules": owned}
    outputs = []
    for one in layers:
        x = x + one(x, shared=shared)[0]
        outputs.append(x)
    return outputs


def test_a_single_mask_is_owned_once_and_read_from_the_embedded_input():
    layers, owned = two_layers("single")
    assert set(owned) == {"lam"}
    assert not any(one.mechanism_parameter_names() for one in layers)
    x = rows()
    outputs = through(layers, owned, x)
    multi, nothing = two_layers("multi")
    assert not len(nothing)
    for one, single in zip(multi, layers, strict=True):
        one.load_state_dict(single.state_dict(), strict=False)
        one.mechanism["lam"].mask.load_state_dict(owned["lam"].state_dict())
    tied = through(multi, nothing, x)
    close(outputs[0].detach(), tied[0].detach())  # the first layer reads the embedded input either way
    assert not torch.allclose(outputs[1], tied[1])  # tied weights on other inputs are not the single mask


def test_a_learned_scale_per_layer_starts_at_one_and_belongs_to_the_single_mask():
    layers, owned = two_layers("single", layer_scale=True)
    plain, _ = two_layers("single")
    for one in layers:
        assert one.mechanism_parameter_names() == {"mechanism.lam.scale"}
        seed_parameters(one, 0)
    for one, other in zip(layers, plain, strict=True):
        other.load_state_dict({n: t for n, t in one.state_dict().items() if "scale" not in n})
    close(through(layers, owned, rows())[1].detach(), through(plain, owned, rows())[1].detach())
    with pytest.raises(UsageError, match="layer_scale belongs to scope 'single'"):
        canonical({"name": "lam", "layer_scale": True})


def test_a_single_mask_without_its_host_is_an_error():
    with pytest.raises(UsageError, match="lam with scope 'single' needs its host"):
        layer({"name": "lam", "scope": "single"})(rows())


def test_a_single_mask_has_no_rows_for_cross_attention():
    with pytest.raises(UsageError, match="scope 'single' reads the encoder's input"):
        canonical({"name": "lam", "scope": "single", "sites": ["cross"]})


def test_in_cross_attention_rows_come_from_the_queries():
    built = layer({"name": "lam", "sites": ["cross"]}, site="cross", max_length=LENGTH + 3)
    context = rows(2, length=LENGTH + 3)
    out, aux = built(rows(), context=context, need_weights=True)
    assert aux.weights.shape == (BATCH, HEADS, LENGTH, LENGTH + 3)
    assert not torch.allclose(out, built(rows(3), context=context)[0])


def test_the_flattened_network_sees_every_token_and_can_not_be_causal():
    spec = {"name": "lam", "mlp": "flattened"}
    built, x = layer(spec), rows()
    other = x.clone()
    other[:, -1] += 1.0
    first = (
        built(x, need_weights=True)[1].weights[:, :, 0, 0]
        / built(x, need_weights=True)[1].weights[:, :, 0, 1]
    )
    second = (
        built(other, need_weights=True)[1].weights[:, :, 0, 0]
        / built(other, need_weights=True)[1].weights[:, :, 0, 1]
    )
    assert not torch.allclose(first, second)
    with pytest.raises(UsageError, match="lam can not be causal"):
        canonical(spec, causal=True)
    with pytest.raises(UsageError, match="lam can not be causal"):
        layer(spec, causal=True)


def test_the_product_is_float32_in_a_bfloat16_layer():
    built = layer("lam", dtype=torch.bfloat16)
    seen = []
    stage = built.mechanism["lam"].bias
    built.mechanism["lam"].bias = lambda c, logits: (
        seen.append((logits.dtype, stage(c, logits).dtype)) or logits
    )
    built(rows(dtype=torch.bfloat16))
    assert seen == [(torch.float32, torch.float32)]


def test_the_order_with_another_bias_decides_what_is_multiplied():
    first, second = layer(["alibi", "lam"]), layer(["lam", "alibi"])
    second.load_state_dict(first.state_dict())
    assert not torch.allclose(first(rows())[0], second(rows())[0])
    assert canonical(["alibi", "lam"]) != canonical(["lam", "alibi"])


def test_there_is_no_fused_form():
    with pytest.raises(UsageError, match="lam has no fused form of its stage 'bias'"):
        layer("lam", kernel="fused")
    assert layer("lam")(rows(), generator=seeded())[1].stats["path"] == "reference"
