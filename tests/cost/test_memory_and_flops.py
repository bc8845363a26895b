"""Peak bytes and FLOPs against closed forms."""

import pytest
import torch

from attnbench.attention import build, canonical
from attnbench.cost.flops import counted_flops
from attnbench.cost.specification import Cell
from attnbench.cost.subject import build_subject
from attnbench.memory import peak_bytes

torch.set_num_threads(1)
CPU = torch.device("cpu")


def eager(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return ((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5).softmax(-1) @ v


@pytest.mark.parametrize("length", [128, 512])
def test_peak_memory_of_eager_attention_is_the_closed_form(length: int) -> None:
    b, h, d = 2, 4, 16
    q, k, v = (torch.randn(b, h, length, d, requires_grad=True) for _ in range(3))
    slope = torch.randn(b, h, length, d)

    def forward() -> None:
        with torch.no_grad():
            eager(q, k, v)

    def both() -> None:
        torch.autograd.grad(eager(q, k, v), [q, k, v], slope)

    table, rows = b * h * length * length * 4, b * h * length * d * 4
    # q k^T and its scaled copy live together: two tables; backward holds three and two of the inputs' size
    assert peak_bytes(forward, CPU) == pytest.approx(2 * table, abs=16 + rows)
    assert peak_bytes(both, CPU) == pytest.approx(3 * table + 2 * rows, rel=0.01)


@pytest.mark.parametrize("mode", ["forward", "forward_backward", "step", "eval"])
def test_peak_memory_is_the_same_every_time(mode: str) -> None:
    subject = build_subject(canonical("alibi"), Cell(2, 2, 32, 8, False, "fp32", mode), "fused", CPU)
    assert len({peak_bytes(subject.call, CPU) for _ in range(3)}) == 1


def test_the_profilers_chatter_does_not_reach_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    peak_bytes(lambda: torch.ones(10), CPU)
    assert capfd.readouterr().err == ""


def test_what_a_call_frees_is_not_counted_against_it() -> None:
    def call() -> torch.Tensor:
        for _ in range(5):
            torch.ones(1000, 1000)
        return torch.ones(10)

    assert peak_bytes(call, CPU) < 2 * 4_000_000


@pytest.mark.parametrize("path", ["reference", "fused"])
def test_counted_flops_are_the_layers_formula_without_its_elementwise_part(path: str) -> None:
    cell = Cell(3, 4, 40, 8, False, "fp32", "forward")
    subject = build_subject(canonical("softmax"), cell, path, CPU)
    n, d = cell.length, cell.width
    products = cell.batch * (8 * n * d * d + 4 * n * n * d)
    assert counted_flops(subject.call) == products
    layer = build("softmax", width=d, heads=4)
    elementwise = cell.batch * (5 * 4 * n * n + n * d)
    assert cell.batch * layer.flops(n) == products + elementwise


def test_a_backward_pass_costs_twice_the_forward_and_a_flash_kernel_recomputes() -> None:
    cell = Cell(3, 4, 40, 8, False, "fp32", "forward_backward")
    n, d = cell.length, cell.width
    linear, attention = cell.batch * 8 * n * d * d, cell.batch * 4 * n * n * d
    reference, fused = (
        counted_flops(build_subject(canonical("softmax"), cell, path, CPU).call)
        for path in ("reference", "fused")
    )
    assert reference == 3 * (linear + attention)
    assert fused == reference + attention / 2


def test_counting_leaves_the_call_usable() -> None:
    subject = build_subject(canonical("softmax"), Cell(2, 2, 8, 4, False, "fp32", "step"), "reference", CPU)
    first = counted_flops(subject.call)
    subject.call()
    assert counted_flops(subject.call) == first
