"""Checkpoints: one file per trial by which a killed one goes on, and the weights that `train.keep` asks for.

    CHECKPOINTS/<sweep>/<trial_id>/resume.pt         the last state, deleted at the end
    CHECKPOINTS/<sweep>/<trial_id>/last|best|at-N.pt weights that stay

Every file is written under another name and renamed, holds tensors and plain values only, and is read with
`weights_only`.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.errors import UsageError
from attnbench.training.config import TrialConfig

FORMAT = 1


class Folder:
    """The files of one trial below `checkpoints`; without a root nothing is ever written or found."""

    def __init__(self, checkpoints: Path | None, config: TrialConfig) -> None:
        self.config = config
        self.path = None if checkpoints is None else Path(checkpoints) / config.sweep / config.trial_id

    def save(self, attempt: int, state: dict[str, Any]) -> None:
        """Replace the state by which `attempt` goes on."""
        if self.path is not None:
            named = {"format": FORMAT, "trial_id": self.config.trial_id, "attempt": attempt, **state}
            flat: list[Tensor] = []
            tree = _packed(named, flat)
            _write(
                {"tree": tree, "flat": torch.cat(flat) if flat else torch.empty(0)}, self.path / "resume.pt"
            )

    def find(self, attempt: int) -> dict[str, Any] | None:
        """The last state of `attempt`, or None where there is none that can be read (a damaged file is no
        state)."""
        if self.path is None:
            return None
        try:
            held = torch.load(self.path / "resume.pt", map_location="cpu", weights_only=True)
            state = _unpacked(held["tree"], held["flat"])
        except FileNotFoundError:
            return None
        except Exception:  # torn or foreign: the trial starts over, which costs time and changes no figure
            return None
        expected = {"format": FORMAT, "trial_id": self.config.trial_id, "attempt": attempt}
        if not isinstance(state, dict) or any(state.get(key) != value for key, value in expected.items()):
            return None
        return state

    def discard(self) -> None:
        """Delete the state; kept weights stay."""
        if self.path is None:
            return
        (self.path / "resume.pt").unlink(missing_ok=True)
        for folder in (self.path, self.path.parent):
            try:
                folder.rmdir()
            except OSError:  # not empty, or never made
                return

    def keep(self, name: str, weights: dict[str, Tensor], step: int) -> None:
        """Keep whole float32 `weights` as <name>.pt."""
        if self.path is not None:
            held = {key: tensor.detach().float().cpu() for key, tensor in weights.items()}
            _write(
                {"format": FORMAT, "config": self.config.canonical(), "step": step, "weights": held},
                self.path / f"{name}.pt",
            )


def _packed(tree: Any, flat: list[Tensor]) -> Any:
    """`tree` with its float32 tensors moved into `flat`: one large tensor is written three times faster
    than a hundred."""
    if isinstance(tree, dict):
        return {key: _packed(value, flat) for key, value in tree.items()}
    if isinstance(tree, Tensor) and tree.dtype == torch.float32:
        flat.append(tree.detach().cpu().flatten())
        return {"packed": list(tree.shape)}
    return tree


def _unpacked(tree: Any, flat: Tensor) -> Any:
    """The inverse: shapes are taken up in the order in which they were packed."""
    place = 0

    def visit(node: Any) -> Any:
        nonlocal place
        if isinstance(node, dict) and node.keys() == {"packed"}:
            size = math.prod(node["packed"])
            place += size
            return flat[place - size : place].view(node["packed"])
        return {key: visit(value) for key, value in node.items()} if isinstance(node, dict) else node

    return visit(tree)


def _write(content: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(content, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_model(path: str | Path, *, device: torch.device | str = "cpu") -> tuple[nn.Module, TrialConfig]:
    """The network of kept weights in evaluation mode, and the configuration that it was trained with.

    Raises UsageError where the file is missing or no file of kept weights.
    """
    from attnbench.training.network import build_network

    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        config = TrialConfig.parse(json.loads(held["config"]), where=str(path))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; train.keep: last keeps a trial's weights") from error
    except (KeyError, TypeError, RuntimeError, EOFError) as error:
        raise UsageError(f"{path}: not a file of kept weights") from error
    model = build_network(config)
    model.load_state_dict(held["weights"], strict=False)
    return model.to(device).eval(), config
