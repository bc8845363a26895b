"""The engine: every ZeRO stage trains alike, and its state by name brings it back to the last bit."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from attnbench.training.config import TrainConfig
from attnbench.training.engine import Engine
from attnbench.training.process import join_group

CPU = torch.device("cpu")
INPUTS = torch.randn(8, 16, 24, generator=torch.Generator().manual_seed(1))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 480), nn.GELU(), nn.Linear(480, 24), nn.LayerNorm(24))


def loss(module, batch, _):
    return (module(batch).float() - 1).square().mean()


def trained(stage, precision="fp32", optimiser="adamw", *, accumulate=1, restart_at=None, clip=1.0):
    """(losses, gradient norms, final weights) of eight steps, the engine made anew at `restart_at`."""
    train = TrainConfig(
        steps=8, batch=16, precision=precision, optimiser=optimiser, grad_accum=accumulate, lr=1e-2, clip=clip
    )
    join_group(CPU)
    engine = Engine(network(), train, zero_stage=stage, workers=1)
    inputs = INPUTS.bfloat16() if precision == "bf16" else INPUTS
    losses, norms = [], []
    for step in range(8):
        if step == restart_at:
            state = engine.state()
            engine.destroy()
            model = network()
            model.load_state_dict(state["weights"])
            engine = Engine(model, train, zero_stage=stage, workers=1)
            engine.load(state)
        value, norm = engine.step(list(inputs[step].chunk(accumulate)), loss, 1e-2)
        losses.append(float(value))
        norms.append(float(norm))
    weights = {name: tensor.clone() for name, tensor in engine.weights().items()}
    engine.destroy()
    return losses, norms, weights


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_zero_stage_trains_as_plain_training_does(stage):
    losses, norms, weights = trained(stage)
    expected_losses, expected_norms, expected = trained(0)
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    assert norms == pytest.approx(expected_norms, rel=1e-3)
    assert all(torch.allclose(weights[name], expected[name], atol=2e-4) for name in expected)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_an_engine_made_anew_from_its_state_goes_on_to_the_last_bit(stage, precision, optimiser):
    undisturbed = trained(stage, precision, optimiser)
    resumed = trained(stage, precision, optimiser, restart_at=4)
    assert resumed[:2] == undisturbed[:2]
    assert all(torch.equal(resumed[2][name], tensor) for name, tensor in undisturbed[2].items())


@pytest.mark.parametrize("stage", [0, 2])
def test_accumulated_micro_batches_are_one_batch(stage):
    assert trained(stage, accumulate=4)[0] == pytest.approx(trained(stage)[0], rel=1e-4)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_clipping_bounds_the_update_and_the_reported_norm_is_the_one_before_it(stage):
    train = TrainConfig(steps=1, batch=16, optimiser="sgd", momentum=0.0, weight_decay=0.0, clip=1e-3)
    join_group(CPU)
    model = network()
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    engine = Engine(model, train, zero_stage=stage, workers=1)
    _, norm = engine.step([INPUTS[0]], loss, 1.0)
    after = engine.weights()
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before]).norm().item()
    engine.destroy()
    assert float(norm) > 0.01
    assert moved == pytest.approx(1e-3, rel=1e-2)


def test_weight_decay_leaves_biases_and_norms_alone():
    train = TrainConfig(steps=1, batch=16, lr=0.1, weight_decay=0.5)
    join_group(CPU)
    model = network()
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    engine = Engine(model, train, zero_stage=0, workers=1)
    engine.step([INPUTS[0]], lambda module, batch, _: 0.0 * module(batch).sum(), 0.1)
    after = engine.weights()
    for name, tensor in before.items():
        expected = tensor * (1 - 0.1 * 0.5) if tensor.ndim >= 2 else tensor
        assert torch.allclose(after[name], expected)
    engine.destroy()


@pytest.mark.parametrize("decoupled", [True, False])
def test_the_fused_step_is_torchs_own_to_the_last_bit(decoupled):
    from attnbench.training.optimiser import FusedAdam

    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    models = [network(), network()]
    settings = {"lr": 1e-2, "betas": (0.8, 0.95), "weight_decay": 0.1}
    ours = FusedAdam(models[0].parameters(), decoupled=decoupled, **settings)
    theirs = kind(models[1].parameters(), fused=True, **settings)
    for step in range(4):
        for model, optimiser in zip(models, (ours, theirs), strict=True):
            optimiser.zero_grad()
            loss(model, INPUTS[step], 0).backward()
            optimiser.step()
    for mine, its in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(mine, its)
        assert torch.equal(ours.state[mine]["exp_avg_sq"], theirs.state[its]["exp_avg_sq"])
        assert ours.state[mine]["step"] == theirs.state[its]["step"] == 4


def test_a_first_step_imports_neither_the_compiler_nor_mlflow():
    code = (
        "import sys; from attnbench.training import TrialConfig, run_trial\n"
        "given = {'workload': 'digits', 'host': {'kind': 'encoder', 'layers': 1, 'width': 16, 'heads': 2},\n"
        "         'attention': 'softmax', 'train': {'steps': 1, 'batch': 8}}\n"
        "assert run_trial(TrialConfig.parse(given)).status == 'ok'\n"
        "print(sorted({'torch._dynamo', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
