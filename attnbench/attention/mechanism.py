"""What a mechanism is: the stages of the pipeline that it provides, typed parameters, and what it needs of
its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

STAGES = (
    "project", "position", "extend", "score", "bias", "perturb",
    "normalise", "reweight", "mix", "heads", "gate", "out",
)  # fmt: skip
SINGLE = frozenset({"project", "score", "normalise", "mix", "out"})
FUSIBLE = ("extend", "score", "bias", "perturb", "normalise", "reweight", "mix")
TRAITS = frozenset(
    {
        "rows_sum_to_one",
        "rows_independent",
        "keys_in_order",
        "logits_finite",
        "map_available",
        "no_future_mean",
        "logits_bilinear",
    }
)

Site = Literal["encoder_self", "decoder_self", "cross"]
SITES: tuple[Site, ...] = ("encoder_self", "decoder_self", "cross")


class Parameters(BaseModel):
    """Base of every mechanism's parameters; unknown keys and wrong types are refused, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)

    layers: Literal["all"] | list[int] | dict[Literal["every"], int] = Field(
        "all", description="which layers: all, a list of indices, or {every: k} for layers 0, k, 2k, ..."
    )
    sites: list[Site] = Field(
        list(SITES), description="where in the network: encoder_self, decoder_self, cross"
    )

    @field_validator("layers", mode="before")
    @classmethod
    def _every(cls, value: Any) -> Any:
        words = value.split() if isinstance(value, str) else []
        if len(words) == 2 and words[0] == "every" and words[1].isdigit():
            return {"every": int(words[1])}
        return value

    @field_validator("layers")
    @classmethod
    def _countable(cls, value: Any) -> Any:
        if isinstance(value, dict) and (list(value) != ["every"] or value["every"] < 1):
            raise ValueError("'every' takes a whole number of at least 1")
        if isinstance(value, list):
            if not value or min(value) < 0:
                raise ValueError("a list of layers holds indices of at least 0")
            return sorted(set(value))
        return value

    @field_validator("sites")
    @classmethod
    def _ordered(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError(f"at least one of {', '.join(SITES)}")
        return [site for site in SITES if site in value]

    def acts_in(self, layer: int, site: str) -> bool:
        """Whether the entry is meant for this layer and site."""
        if site not in self.sites:
            return False
        if isinstance(self.layers, dict):
            return layer % self.layers["every"] == 0
        return self.layers == "all" or layer in self.layers


@dataclass(frozen=True)
class LayerShape:
    """What a mechanism knows of its layer when it is built. max_length: most keys that will ever come, or
    None if unknown.
    """

    width: int
    heads: int
    layer: int = 0
    layers: int = 1
    max_length: int | None = None
    causal: bool = False
    site: str = "encoder_self"

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class Mechanism(nn.Module):
    """Base of all mechanisms: provide a stage by defining the method of its name (c is the Context).

        project(c) -> q (B,H,N,d), k, v (B,H,M,d)       one
        position(c, q, k) -> q, k                       chain
        extend(c, k, v) -> k, v with leading slots      chain
        score(c, q, k) -> logits (B,H,N,M)              one
        bias(c, logits) -> logits                       chain
        perturb(c, logits) -> logits                    chain, training only
        normalise(c, logits) -> weights (B,H,N,M)       one
        reweight(c, weights) -> weights                 chain
        mix(c, weights, v) -> heads (B,H,N,d)           one
        heads(c, heads) -> heads                        chain
        gate(c, merged) -> merged (B,N,D)               chain
        out(c, merged) -> output (B,N,D)                one

    The mask is the pipeline's own (written between perturb and normalise); no stage writes -inf for causality
    or padding. `fuse_<stage>(c, plan) -> Plan | None` rewrites the fused plan, purely; absent or None means
    that only the reference can do it. Traits: `breaks` what the mechanism destroys, `requires` what it needs
    from everything before it in the pipeline, `fused_requires` what only its fused form needs.
    """

    name: ClassVar[str] = ""
    arxiv: ClassVar[str | None] = None
    summary: ClassVar[str] = ""
    schema: ClassVar[type[Parameters]] = Parameters
    requires: ClassVar[frozenset[str]] = frozenset()
    breaks: ClassVar[frozenset[str]] = frozenset()
    fused_requires: ClassVar[frozenset[str]] = frozenset()
    causal_ok: ClassVar[bool] = True
    precise: ClassVar[bool] = False  # logits in float32 (at least), whatever the precision of the layer
    stages: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.stages = tuple(stage for stage in STAGES if callable(getattr(cls, stage, None)))

    def __init__(self, settings: Parameters, shape: LayerShape) -> None:
        super().__init__()
        self.settings: Any = settings
        self.shape = shape

    @classmethod
    def stages_of(cls, settings: Parameters) -> tuple[str, ...]:
        """The stages that these settings use; all that the class defines unless a mechanism says
        otherwise.
        """
        return cls.stages

    @classmethod
    def breaks_of(cls, settings: Parameters) -> frozenset[str]:
        """The traits that these settings destroy; `breaks` unless a mechanism says otherwise."""
        return cls.breaks

    @classmethod
    def refuses_causal(cls, settings: Parameters) -> str | None:
        """Why these settings can not be causal, in a few words, or None."""
        return None if cls.causal_ok else "every query would see the future"

    @classmethod
    def draws_per_call(cls, settings: Parameters) -> bool:
        """Whether some random number is drawn once per call for the whole batch, so that two passes of an
        objective need two calls.
        """
        return False

    @classmethod
    def shared_module(cls, settings: Parameters, shape: LayerShape) -> nn.Module | None:
        """The module that one network owns once for all its layers, or None."""
        return None

    def active(self, training: bool) -> tuple[str, ...]:
        """The stages in use in this mode; `perturb` is training only. An entry without effect returns
        nothing: it is then exact.
        """
        return tuple(s for s in self.stages_of(self.settings) if training or s != "perturb")

    def flops(self, n: int, m: int, training: bool = False) -> float:
        """Forward FLOPs per example that the mechanism adds to plain attention over n queries and m keys."""
        return 0.0

    def compute(self, logits: Tensor) -> Tensor:
        """Raise low-precision logits to float32."""
        return logits.float() if logits.element_size() < 4 else logits
