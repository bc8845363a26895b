"""What a user may say about a host, and what a host needs of a task. Light: nothing heavy is imported."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from attnbench.errors import UsageError
from attnbench.workloads import Signature

HOSTS = {
    "encoder": "bidirectional transformer that classifies images (cut into patches) or token sequences",
    "decoder": "causal transformer language model over tokens",
}


class HostConfig(BaseModel):
    """A network without its attention: pre-norm transformer blocks round the layers that an arm builds.

    patch: side of the square patches of an image, pixels (images only). mlp_ratio: hidden width of the MLP
    by `width`. dropout: on the hidden units of the MLP and on what both sublayers add to the residual
    stream, alike in every arm; dropout of attention weights is a mechanism. pool: how the encoder turns
    tokens into one vector; tied: the decoder's head reuses the token embedding. kernel: path of the
    attention layers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["encoder", "decoder"]
    layers: int = Field(default=4, ge=1)
    width: int = Field(default=64, ge=1)
    heads: int = Field(default=4, ge=1)
    patch: int = Field(default=2, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    position: Literal["learned", "sinusoidal", "none"] = "learned"
    pool: Literal["mean", "cls"] = "mean"
    tied: bool = True
    kernel: Literal["auto", "reference", "fused"] = "auto"

    @model_validator(mode="after")
    def _divisible(self) -> HostConfig:
        if self.width % self.heads:
            raise ValueError(f"host.width {self.width} is not divisible by host.heads {self.heads}")
        if self.position == "sinusoidal" and self.width % 2:
            raise ValueError(f"host.position sinusoidal needs an even host.width, not {self.width}")
        return self

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        return round(self.mlp_ratio * self.width)

    @property
    def causal(self) -> bool:
        """Whether its attention may see the past only."""
        return self.kind == "decoder"


def hosts() -> dict[str, str]:
    """Every host by name, with what it is in one line."""
    return dict(HOSTS)


def check_host(host: HostConfig, signature: Signature) -> None:
    """UsageError if the host cannot carry the task."""
    if host.kind == "decoder" and not (signature.kind == "tokens" and signature.causal):
        raise UsageError(
            "host.kind decoder is a language model; this workload is a classification: use encoder"
        )
    if host.kind == "encoder" and signature.causal:
        raise UsageError("host.kind encoder sees the future; this workload is a language model: use decoder")
    if signature.kind == "image" and (signature.height % host.patch or signature.width % host.patch):
        raise UsageError(
            f"host.patch {host.patch} does not divide images of {signature.height} x {signature.width} pixels"
        )


def sequence_length(host: HostConfig, signature: Signature) -> int:
    """Tokens that each attention layer sees, N."""
    if signature.kind == "image":
        length = (signature.height // host.patch) * (signature.width // host.patch)
    else:
        length = signature.length
    return length + (host.kind == "encoder" and host.pool == "cls")
