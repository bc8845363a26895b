"""What holds for every host, with plain attention and with mechanisms in it."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from attnbench.attention import Draws, canonical, seed_parameters
from attnbench.errors import UsageError
from attnbench.hosts import HostConfig, build_host
from attnbench.workloads import Signature

torch.set_num_threads(1)

IMAGES = Signature("image", classes=10, channels=1, height=8, width=8, mean=(0.3,), std=(0.4,))
TOKENS = Signature("tokens", classes=3, vocabulary=20, length=12, padding=True)
TEXT = Signature("tokens", classes=30, vocabulary=30, length=12, causal=True)
ARMS = [
    "softmax",
    [{"name": "dropout", "p": 0.2}],
    ["alibi", {"name": "relaxed", "gamma": 0.1}],
    {"name": "attentiondrop_hard", "p": 0.2},
    {"name": "attentiondrop_blur"},
    {"name": "lam", "init": "identity", "sites": ["encoder_self", "decoder_self"]},
    {"name": "lam", "scope": "single", "init": "identity"},
]
DECODER = {"sites": ["decoder_self"]}
CAUSAL_ARMS = [
    "softmax",
    [{"name": "dropout", "p": 0.2}],
    ["alibi", {"name": "relaxed", "gamma": 0.1, **DECODER}],
    {"name": "attentiondrop_hard", "p": 0.2, **DECODER},
    {"name": "lam", **DECODER},
    {"name": "lam", "scope": "single", "init": "identity", **DECODER},
]


def model_of(arm="softmax", signature=IMAGES, seed=0, **host):
    kind = "decoder" if signature.causal else "encoder"
    config = HostConfig(**{"kind": kind, "layers": 2, "width": 16, "heads": 2, **host})
    model = build_host(config, canonical(arm), signature)
    seed_parameters(model, seed)
    return model


def inputs_of(signature, examples=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if signature.kind == "image":
        return torch.rand(
            examples, signature.channels, signature.height, signature.width, generator=generator
        )
    return torch.randint(signature.vocabulary, (examples, signature.length), generator=generator)


def randomised(model):
    """Every parameter drawn anew, so that nothing is hidden behind an initialisation at zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("arm", CAUSAL_ARMS, ids=str)
def test_future_tokens_never_change_the_output(arm) -> None:
    torch.manual_seed(0)
    model = randomised(model_of(arm, TEXT)).double().eval()
    tokens = inputs_of(TEXT)
    before = model(tokens).logits
    for place in range(1, TEXT.length):
        changed = tokens.clone()
        changed[:, place:] = (changed[:, place:] + 1) % TEXT.vocabulary
        after = model(changed).logits
        assert torch.allclose(after[:, :place], before[:, :place], rtol=0, atol=1e-12)
        assert not torch.allclose(after[:, place], before[:, place])


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_padding_never_changes_the_output(arm, pool) -> None:
    torch.manual_seed(0)
    model = randomised(model_of(arm, TOKENS, pool=pool)).double().eval()
    tokens = inputs_of(TOKENS)
    lengths = torch.tensor([12, 7, 1])
    mask = torch.arange(12) < lengths[:, None]
    outputs = [
        model(torch.where(mask, tokens, filler), key_mask=mask).logits
        for filler in (torch.zeros_like(tokens), inputs_of(TOKENS, seed=1))
    ]
    assert torch.allclose(outputs[0], outputs[1], rtol=0, atol=1e-12)
    for row, length in enumerate(lengths.tolist()):
        alone = model(tokens[row : row + 1, :length]).logits
        assert torch.allclose(alone[0], outputs[0][row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("signature", [IMAGES, TOKENS, TEXT], ids=["images", "tokens", "text"])
def test_every_parameter_gets_a_gradient(signature) -> None:
    model = randomised(model_of("softmax", signature, dropout=0.1))
    output = model(inputs_of(signature), draws=Draws(0, 0))
    output.logits.pow(2).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or p.grad.norm() == 0] == []


@pytest.mark.parametrize("arm", ARMS[1:], ids=str)
def test_what_two_arms_have_in_common_starts_equal(arm) -> None:
    plain = dict(model_of("softmax").named_parameters())
    other = dict(model_of(arm).named_parameters())
    assert set(plain) <= set(other)
    assert all(torch.equal(plain[name], other[name]) for name in plain)
    apart = dict(model_of("softmax", seed=1).named_parameters())
    assert not torch.equal(plain["layers.0.attention.q.weight"], apart["layers.0.attention.q.weight"])


@pytest.mark.parametrize("scope", ["multi", "single"])
def test_the_host_leaves_a_mechanisms_own_initialisation_alone(scope) -> None:
    """A LAM that starts as the identity makes the network equal to plain softmax, by value, at the start."""
    lam = model_of({"name": "lam", "scope": scope, "init": "identity"}).eval()
    plain = model_of("softmax").eval()
    images = inputs_of(IMAGES)
    assert torch.allclose(lam(images).logits, plain(images).logits, rtol=0, atol=1e-6)
    literal = model_of({"name": "lam", "scope": scope, "init": "literal"}).eval()
    assert not torch.allclose(literal(images).logits, plain(images).logits, rtol=0, atol=1e-6)


def test_every_module_with_parameters_of_its_own_can_be_seeded() -> None:
    for signature, host in ((IMAGES, {"pool": "cls"}), (TEXT, {"tied": False}), (TEXT, {})):
        one, two = model_of(signature=signature, **host), model_of(signature=signature, **host)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
        seed_parameters(two, 1)
        same = {
            name
            for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True)
            if torch.equal(a, b)
        }
        assert all("norm" in name or name.endswith("bias") for name in same), same


@pytest.mark.parametrize("arm", ARMS, ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_pass_is_decided_by_its_draws_and_not_by_the_global_state(arm, dropout) -> None:
    model = model_of(arm, dropout=dropout).train()
    images = inputs_of(IMAGES)
    torch.manual_seed(0)
    first = model(images, draws=Draws(3, 5)).logits
    torch.manual_seed(1)
    assert torch.equal(model(images, draws=Draws(3, 5)).logits, first)
    if dropout:
        assert not torch.equal(model(images, draws=Draws(3, 6)).logits, first)
    model.eval()
    assert torch.equal(model(images, draws=Draws(3, 5)).logits, model(images).logits)


def test_the_dropout_of_the_host_is_the_same_in_every_arm() -> None:
    """The draws of a mechanism do not shift those of dropout: a mechanism at p = 0 changes nothing."""
    images = inputs_of(IMAGES)
    plain = model_of("softmax", dropout=0.3).train()(images, draws=Draws(0, 0)).logits
    other = (
        model_of({"name": "attentiondrop_hard", "p": 0.0}, dropout=0.3)
        .train()(images, draws=Draws(0, 0))
        .logits
    )
    assert torch.allclose(plain, other, rtol=0, atol=1e-6)


def test_dropout_keeps_the_mean_and_drops_the_share_asked_for() -> None:
    from attnbench.hosts.block import Dropout

    kept = Dropout(0.25).train()(torch.ones(200_000), torch.Generator().manual_seed(0))
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert abs((kept == 0).float().mean() - 0.25) < 0.005 and abs(kept.mean() - 1) < 0.01


def test_logits_at_chosen_positions_are_those_of_the_whole_output() -> None:
    for tied in (True, False):
        model = randomised(model_of("alibi", TEXT, tied=tied)).double()
        tokens, at = inputs_of(TEXT), torch.tensor([0, 5, 13, 35])
        whole = model(tokens).logits
        some = model(tokens, at=at).logits
        assert torch.allclose(some, whole.flatten(0, 1)[at], rtol=0, atol=1e-12)
        targets = torch.arange(4)
        gradients = [
            torch.autograd.grad(F.cross_entropy(logits, targets), list(model.parameters()))
            for logits in (some, whole.flatten(0, 1)[at])
        ]
        assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_every_parameter_is_in_one_layer_group_and_mechanisms_have_their_own(arm) -> None:
    model = model_of(arm)
    groups = model.layer_groups()
    grouped = [name for names in groups.values() for name in names]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())
    plain = {"embedding", "head", *(f"layer.{i}.{part}" for i in (0, 1) for part in ("attention", "mlp"))}
    owned = {name for group, names in groups.items() if group.endswith("mechanism") for name in names}
    assert set(groups) - plain == {group for group in groups if group.endswith("mechanism")}
    assert owned == model.mechanism_parameter_names()
    assert owned == {name for name, _ in model.named_parameters()} - set(
        dict(model_of("softmax").named_parameters())
    )


@pytest.mark.parametrize(
    ("signature", "host"),
    [
        (IMAGES, {"width": 64, "heads": 4, "layers": 4}),
        (IMAGES, {"width": 64, "heads": 4, "patch": 4, "pool": "cls"}),
        (TOKENS, {"width": 32, "mlp_ratio": 2.0}),
        (Signature("tokens", 256, vocabulary=256, length=64, causal=True), {"width": 64, "heads": 1}),
        (Signature("tokens", 256, vocabulary=256, length=64, causal=True), {"width": 64, "tied": False}),
    ],
    ids=str,
)
def test_the_flops_formula_agrees_with_the_counter_of_torch(signature, host) -> None:
    model = model_of("softmax", signature, kernel="reference", **host).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs_of(signature, examples=2))
    counted = counter.get_total_flops() / 2
    # the formula also has the softmax and what biases add, which torch leaves out
    assert counted <= model.flops() <= 1.05 * counted


def test_images_are_normalised_inside_the_model() -> None:
    model = model_of(signature=IMAGES)
    plain = build_host(
        model.host, canonical("softmax"), Signature("image", 10, channels=1, height=8, width=8)
    )
    plain.load_state_dict(model.state_dict())
    images = inputs_of(IMAGES)
    assert torch.allclose(plain((images - 0.3) / 0.4).logits, model(images).logits, atol=1e-5)


def test_patches_are_squares_in_reading_order() -> None:
    signature = Signature("image", 2, channels=3, height=4, width=6)
    model = model_of(signature=signature, patch=2)
    image = torch.arange(72.0).view(1, 3, 4, 6)
    patches = model.embedding.patches(image)
    assert patches.shape == (1, 6, 12)
    assert torch.equal(patches[0, 4].view(3, 2, 2), image[0, :, 2:4, 2:4])


@pytest.mark.parametrize("position", ["learned", "sinusoidal"])
def test_order_matters_with_positions_and_not_without(position) -> None:
    tokens = inputs_of(TOKENS)
    for kind, matters in (("none", False), (position, True)):
        model = randomised(model_of(signature=TOKENS, position=kind)).double().eval()
        same = torch.allclose(model(tokens).logits, model(tokens.flip(1)).logits, atol=1e-10)
        assert same is not matters


@pytest.mark.parametrize("signature", [IMAGES, TOKENS, TEXT], ids=["images", "tokens", "text"])
def test_a_host_in_bfloat16_takes_the_same_inputs(signature) -> None:
    model = model_of(signature=signature, dropout=0.1)
    exact = model.eval()(inputs_of(signature)).logits
    rounded = model.bfloat16().eval()(inputs_of(signature)).logits
    assert rounded.dtype == torch.bfloat16 and torch.allclose(rounded.float(), exact, atol=0.1)
    model.train()(inputs_of(signature), draws=Draws(0, 0)).logits.float().sum().backward()


def test_weights_are_returned_when_asked_for() -> None:
    output = model_of().eval()(inputs_of(IMAGES), need_weights=True)
    assert output.weights is not None and [w.shape for w in output.weights] == [(3, 2, 16, 16)] * 2
    assert all(torch.allclose(w.sum(-1), torch.ones(3, 2, 16)) for w in output.weights)
    assert output.stats["path"] == "reference" and len(output.stats["layers"]) == 2


@pytest.mark.parametrize("arm", [ARMS[0], ARMS[2], ARMS[6]], ids=str)
def test_the_whole_network_is_the_same_on_the_reference_and_on_the_chosen_path(arm) -> None:
    torch.manual_seed(0)
    reference = randomised(model_of(arm, kernel="reference")).double().eval()
    auto = model_of(arm, kernel="auto").double().eval()
    auto.load_state_dict(reference.state_dict())
    images = inputs_of(IMAGES).double()
    assert torch.allclose(auto(images).logits, reference(images).logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("host", "signature", "says"),
    [
        ({"kind": "decoder"}, IMAGES, "use encoder"),
        ({"kind": "decoder"}, TOKENS, "use encoder"),
        ({"kind": "encoder"}, TEXT, "use decoder"),
        ({"kind": "encoder", "patch": 3}, IMAGES, "host.patch 3 does not divide"),
    ],
)
def test_a_host_that_cannot_carry_the_task_is_refused_in_one_line(host, signature, says) -> None:
    with pytest.raises(UsageError, match=says):
        build_host(HostConfig(**host), canonical("softmax"), signature)


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 10, "heads": 4},
        {"laeyrs": 2},
        {"kind": "decodr"},
        {"layers": 0},
        {"dropout": 1.0},
        {"layers": "2"},
    ],
    ids=str,
)
def test_a_wrong_configuration_is_refused(wrong) -> None:
    with pytest.raises(ValueError):
        HostConfig(**{"kind": "encoder", **wrong})


def test_configuring_a_host_imports_no_torch() -> None:
    script = "import sys; from attnbench.hosts import HostConfig; HostConfig(kind='encoder')\n"
    script += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
