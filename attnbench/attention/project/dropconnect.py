"""DropConnect on the attention layer's projections (Wan et al., ICML 2013:
proceedings.mlr.press/v28/wan13).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from attnbench.attention.context import Context
from attnbench.attention.layer import split
from attnbench.attention.mechanism import Mechanism, Parameters
from attnbench.attention.registry import register

Map = Literal["q", "k", "v", "out"]


class DropConnectParameters(Parameters):
    p: float = Field(0.5, ge=0, lt=1, description="probability that a weight is dropped")
    maps: list[Map] = Field(["q", "k", "v", "out"], min_length=1, description="whose weights may be dropped")
    granularity: Literal["example", "batch"] = Field(
        "example", description="a mask of its own for each example, or one for the batch"
    )
    drop_bias: bool = Field(True, description="biases are dropped as well")


@register
class DropConnect(Mechanism):
    """Training only: single WEIGHTS of the linear maps are dropped, not activations and not entries of the
    attention map.

        y = (M * W) x / (1 - p) + (M_b * b) / (1 - p),    M_ij ~ Bernoulli(1 - p)    for W in q, k, v, out

    Dropped are the entries of W_q, W_k, W_v and W_out (choose with `maps`) and of their biases, a fresh mask
    for every example, as the paper defines it for a fully connected layer; p = 0.5 is the paper's. Decided:
    the paper is older than attention, and the arms that AttentionDrop compares with could not be read, so the
    four projections are the natural reading. The paper evaluates by moment-matched Gaussian samples before
    the activation; here evaluation uses the mean weight (weights are scaled up in training instead), so that
    evaluation is plain attention. An example's own mask costs B D^2 floats for each map.
    """

    name = "dropconnect"
    arxiv = None
    summary = "drops single weights of the projections q, k, v and out in training"
    schema = DropConnectParameters

    def active(self, training: bool) -> tuple[str, ...]:
        if not training or self.settings.p == 0:
            return ()
        return tuple(s for s in self.stages_of(self.settings))

    def project(self, c: Context) -> tuple[Tensor, Tensor, Tensor]:
        inputs = {"q": c.x, "k": c.source, "v": c.source}
        q, k, v = (split(self._map(c, name, t), c.heads) for name, t in inputs.items())
        return q, k, v

    def out(self, c: Context, merged: Tensor) -> Tensor:
        return self._map(c, "out", merged)

    def _map(self, c: Context, name: str, x: Tensor) -> Tensor:
        linear = c.projections[name]
        assert isinstance(linear, nn.Linear)
        if name not in self.settings.maps:
            return linear(x)
        batch = x.shape[0] if self.settings.granularity == "example" else 1
        weight = linear.weight * self._mask(c, x, batch, *linear.weight.shape)
        y = x @ weight.transpose(-1, -2)
        if linear.bias is None:
            return y
        if not self.settings.drop_bias:
            return y + linear.bias
        return y + linear.bias * self._mask(c, x, batch, 1, linear.bias.shape[0])

    def _mask(self, c: Context, x: Tensor, *shape: int) -> Tensor:
        return (c.rand(*shape) >= self.settings.p).to(x.dtype) / (1 - self.settings.p)

    def flops(self, n: int, m: int, training: bool = False) -> float:
        return 2.0 * len(self.settings.maps) * self.shape.width**2 if self.active(training) else 0.0
