"""Natural corruptions of a split in five severities; drawn once per split, whatever model looks at it.

The corruption is a function of (seed, kind, severity) and of the split alone, so that all arms of a
comparison see the same damaged examples, on every device and with every batch size.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from attnbench.attention.draws import stable_seed

if TYPE_CHECKING:
    from attnbench.workloads import Signature, Split

# one value per severity 1..5
NOISE_SD = (
    0.08,
    0.12,
    0.18,
    0.26,
    0.38,
)  # of the [0, 1] range: ImageNet-C's Gaussian noise (arXiv 1903.12261)
BLUR_SIGMA = (0.4, 0.6, 0.8, 1.0, 1.5)  # pixels of an image of 32 or fewer a side, in proportion above
PATCH_SHARE = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the patches, an eighth of the image wide, at least 2 pixels
BYTE_SHARE = (0.01, 0.02, 0.05, 0.1, 0.2)  # of the input tokens

IMAGE_KINDS = ("noise", "blur", "patch_drop")
TOKEN_KINDS = ("byte_noise",)

_BLOCK = 512  # examples drawn at a time: bounds the scratch memory without making the draws depend on `batch`


def corrupt(split: Split, kind: str, severity: int, signature: Signature, *, seed: int = 0) -> Split:
    """The split with its inputs damaged; targets and key mask are the same objects.

    kind: noise, blur, patch_drop (images (E,C,H,W) in [0,1], stay there) or byte_noise (tokens (E,N));
    severity 1..5.
    """
    generator = torch.Generator().manual_seed(stable_seed(seed, kind, severity))
    inputs = split.inputs.detach().cpu()
    parts = []
    for start in range(0, len(inputs), _BLOCK):
        block = inputs[start : start + _BLOCK]
        if kind == "noise":
            noise = torch.randn(block.shape, generator=generator)
            parts.append((block + NOISE_SD[severity - 1] * noise).clamp(0, 1))
        elif kind == "blur":
            sigma = BLUR_SIGMA[severity - 1] * max(1.0, block.shape[-1] / 32)
            parts.append(gaussian_blur(block, sigma))
        elif kind == "patch_drop":
            parts.append(drop_patches(block, PATCH_SHARE[severity - 1], signature.mean, generator))
        elif kind == "byte_noise":
            mask = None if split.key_mask is None else split.key_mask[start : start + _BLOCK].cpu()
            share = BYTE_SHARE[severity - 1]
            parts.append(substitute(block, share, signature.vocabulary, mask, generator))
        else:
            raise ValueError(f"no corruption named {kind!r}")
    return dataclasses.replace(split, inputs=torch.cat(parts))


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur of (E,C,H,W), sigma in pixels, reflected at the borders."""
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for axis in (2, 3):
        size = images.shape[axis]
        positions = torch.arange(-radius, size + radius).remainder(2 * size)
        positions = torch.minimum(positions, 2 * size - 1 - positions)  # ... b a | a b ... y z | z y ...
        padded = images.index_select(axis, positions)
        images = sum(
            (weight * padded.narrow(axis, u, size) for u, weight in enumerate(kernel)),
            start=torch.zeros_like(images),
        )
    return images


def drop_patches(images: Tensor, share: float, fill: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """A share of square patches of each of (E,C,H,W) replaced by the data's mean colour `fill`."""
    examples, _, height, width = images.shape
    side = max(2, min(height, width) // 8)
    rows, columns = -(-height // side), -(-width // side)
    rank = torch.rand(examples, rows * columns, generator=generator).argsort(1).argsort(1)
    dropped = (rank < max(1, round(share * rows * columns))).view(examples, 1, rows, columns).float()
    pixels = F.interpolate(dropped, scale_factor=side, mode="nearest")[..., :height, :width].bool()
    colour = torch.tensor(fill, dtype=images.dtype).view(1, -1, 1, 1)
    return torch.where(pixels, colour, images)


def substitute(
    tokens: Tensor, share: float, vocabulary: int, key_mask: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Each of (E,N) replaced with probability `share` by another token, uniformly; padding is left alone."""
    hit = torch.rand(tokens.shape, generator=generator) < share
    if key_mask is not None:
        hit &= key_mask
    shift = torch.randint(1, max(2, vocabulary), tokens.shape, generator=generator)
    return torch.where(hit, (tokens + shift) % vocabulary, tokens)
