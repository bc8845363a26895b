"""From a batch to vectors: token table or patches, position, and the class token."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attnbench.hosts.config import HostConfig, sequence_length
from attnbench.workloads import Signature


class Embedding(nn.Module):
    """Inputs (B,C,H,W) in [0,1] or (B,N) int64 -> (B,N,D), position added.

    Images are normalised here, by the signature's mean and std, so that an attack may work on [0,1].
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, host: HostConfig, signature: Signature) -> None:
        super().__init__()
        self.patch = host.patch
        self.width = host.width
        self.image = signature.kind == "image"
        length = sequence_length(host, signature)
        if self.image:
            channels = signature.channels
            self.project = nn.Linear(channels * host.patch**2, host.width)
            shape = (1, channels, 1, 1)
            mean = torch.tensor(signature.mean or (0.0,) * channels).view(shape)
            std = torch.tensor(signature.std or (1.0,) * channels).view(shape)
            self.register_buffer("mean", mean, persistent=False)
            self.register_buffer("inverse_std", 1 / std, persistent=False)
        else:
            self.tokens = nn.Embedding(signature.vocabulary, host.width)
        self.cls: nn.Parameter | None = None
        if host.kind == "encoder" and host.pool == "cls":
            self.cls = nn.Parameter(torch.zeros(1, 1, host.width))
        self.position: Tensor | None
        if host.position == "learned":
            self.position = nn.Parameter(torch.zeros(length, host.width))
        elif host.position == "sinusoidal":
            self.register_buffer("position", sinusoidal(length, host.width), persistent=False)
        else:
            self.position = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Table, positions and class token from N(0, 1/D); the patch projection keeps its own start.

        A table that is shared with the head then gives logits of unit variance, and positions are as strong
        as tokens. Measured against the usual std of 0.02 with softmax: digits after 20 epochs 0.97 instead
        of 0.91 test accuracy (4 seeds); MQAR at 0.99 in about half the epochs.
        """
        std = self.width**-0.5
        if not self.image:
            nn.init.normal_(self.tokens.weight, std=std)
        for parameter in (self.position, self.cls):
            if isinstance(parameter, nn.Parameter):
                nn.init.normal_(parameter, std=std)

    def forward(self, inputs: Tensor) -> Tensor:
        x = (
            self.project(self.patches(inputs).to(self.project.weight.dtype))
            if self.image
            else self.tokens(inputs)
        )
        if self.cls is not None:
            x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1)
        return x if self.position is None else x + self.position[: x.shape[1]]

    def patches(self, images: Tensor) -> Tensor:
        """(B,C,H,W) -> normalised patches, row by row, (B, H/p * W/p, C*p*p)."""
        p = self.patch
        x = (images - self.mean) * self.inverse_std
        x = x.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # (B, C, H/p, p, W/p, p)
        return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def sinusoidal(length: int, width: int) -> Tensor:
    """Fixed positions, (length, width): sin and cos of geometric frequencies (arXiv 1706.03762, section
    3.5).
    """
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle = torch.arange(length)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
