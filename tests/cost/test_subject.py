"""What is timed is what it says, and a fused path that is wrong is never timed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from attnbench.attention import build, canonical
from attnbench.cost.equality import difference
from attnbench.cost.specification import Cell
from attnbench.cost.subject import _step, build_subject, host_config
from attnbench.errors import UsageError
from attnbench.training.objectives import build_objective, canonical_objective

torch.set_num_threads(1)
CPU = torch.device("cpu")
MODES = ("forward", "forward_backward", "step", "eval")

BROKEN = '''
from attnbench.attention import Mechanism


class Broken(Mechanism):
    """Adds one to the logits of the first key; its fused path forgets that {when}."""

    name = "broken"

    def bias(self, c, logits):
        first = logits.new_zeros(logits.shape[-1])
        first[0] = 1.0
        return logits + first

    def fuse_bias(self, c, plan):
        first = plan.q.new_zeros(1, 1, 1, plan.k.shape[2])
        first[..., 0] = {value}
        return plan.with_(bias=first)
'''


def cell(mode: str, **changes: Any) -> Cell:
    settings = {"batch": 2, "heads": 2, "length": 12, "head_dim": 4, "causal": False, "precision": "fp32"}
    return Cell(**{**settings, **changes, "mode": mode})  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_every_mode_runs_on_both_paths_and_says_which_ran(mode: str, causal: bool, precision: str) -> None:
    where = cell(mode, causal=causal, precision=precision)
    for path, ran in (("reference", "reference"), ("fused", "flash_cpu")):
        subject = build_subject(canonical("softmax"), where, path, CPU)
        assert subject.path == ran
        assert subject.call() == ran


@pytest.mark.parametrize("causal", [False, True])
def test_a_step_can_be_that_of_a_whole_host(causal: bool) -> None:
    where = cell("step", causal=causal)
    subject = build_subject(canonical("alibi"), where, "fused", CPU, host={"layers": 2, "patch": 2})
    assert subject.path == "flash_cpu"


def test_lam_finds_what_its_network_owns() -> None:
    for mode in MODES:
        spec = canonical({"name": "lam", "scope": "single"})
        assert build_subject(spec, cell(mode), "reference", CPU).path == "reference"


def test_a_path_that_a_mechanism_has_not_is_refused_with_the_stage() -> None:
    with pytest.raises(UsageError, match="dropout has no fused form of its stage 'reweight'"):
        build_subject(canonical("dropout"), cell("forward"), "fused", CPU)
    assert build_subject(canonical("dropout"), cell("eval"), "fused", CPU).path == "flash_cpu"


def test_a_thousand_steps_later_the_weights_are_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.nn.Parameter] = []
    make = torch.optim.AdamW

    def spy(parameters: Any, **settings: Any) -> torch.optim.Optimizer:
        kept = list(parameters)
        seen.extend(kept)
        return make(kept, **settings)

    monkeypatch.setattr(torch.optim, "AdamW", spy)
    subject = _step(canonical("attentiondrop_hard"), cell("step"), "reference", CPU, None, None, 0)
    before = [p.clone() for p in seen]
    for _ in range(20):
        subject.call()
    assert len(before) > 10
    assert all(torch.equal(a, b) for a, b in zip(before, seen, strict=True))
    assert all(p.grad is None for p in seen)


@pytest.mark.parametrize("passes", ["sequential", "concatenated"])
def test_an_objective_makes_a_step_of_two_passes(passes: str) -> None:
    from attnbench.cost.flops import counted_flops

    objective = build_objective(canonical_objective({"name": "consistency", "passes": passes}))
    one = build_subject(canonical("dropout"), cell("step"), "reference", CPU)
    two = build_subject(canonical("dropout"), cell("step"), "reference", CPU, objective=objective)
    assert counted_flops(two.call) == 2 * counted_flops(one.call)


def test_what_the_shape_decides_cannot_be_said_otherwise_in_the_host() -> None:
    with pytest.raises(UsageError, match=r"host\.width is 64, but the shape makes it 8"):
        host_config({"width": 64}, cell("step"), "fused")
    with pytest.raises(UsageError, match=r"host\.kind is 'encoder', but the shape makes it 'decoder'"):
        host_config({"kind": "encoder"}, cell("step", causal=True), "fused")
    with pytest.raises(UsageError, match=r"host\.layer"):
        host_config({"layer": 2}, cell("step"), "fused")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize(
    "spec",
    ["softmax", "alibi", "relaxed", "attentiondrop_blur", "attentiondrop_hard", "dropout", "lam",
     ["alibi", "relaxed"], ["attentiondrop_blur", "relaxed"]],
)  # fmt: skip
def test_the_gate_is_green_for_the_built_in_mechanisms(spec: Any, precision: str, causal: bool) -> None:
    where = cell("forward", length=40, precision=precision, causal=causal)
    assert difference(canonical(spec, causal=causal), where, CPU) is None


@pytest.mark.parametrize(
    ("value", "when"), [("0.0", "always"), ("0.0 if self.training else 1.0", "in training")]
)
def test_the_gate_is_red_for_a_fused_path_that_is_wrong(value: str, when: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(BROKEN.format(value=value, when=when))
    found = difference(canonical(f"{file}:Broken"), cell("forward"), CPU)
    assert found is not None and "output differs by" in found and "(training, fp64, cpu)" in found


def test_the_gate_is_green_again_once_it_is_mended(tmp_path: Path) -> None:
    file = tmp_path / "mended.py"
    file.write_text(BROKEN.format(value="1.0", when="never"))
    assert difference(canonical(f"{file}:Broken"), cell("forward"), CPU) is None


def test_evaluation_of_attentiondrop_is_plain_softmax_to_the_last_bit() -> None:
    x = torch.randn(2, 12, 8)
    plain = build("softmax", width=8, heads=2).eval()
    for name in ("attentiondrop_hard", "attentiondrop_blur", "dropout", "dropconnect"):
        for kernel in ("reference", "fused"):
            layer = build(name, width=8, heads=2, kernel=kernel).eval()
            layer.load_state_dict(plain.state_dict())
            expected = build("softmax", width=8, heads=2, kernel=kernel).eval()
            expected.load_state_dict(plain.state_dict())
            assert torch.equal(layer(x)[0], expected(x)[0]), name
