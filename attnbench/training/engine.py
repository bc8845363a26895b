"""The DeepSpeed engine round a model: one optimiser step, and its state as tensors by parameter name.

The state has one layout at every ZeRO stage, precision and number of workers, so that a checkpoint is one
file that loads with `weights_only`, and a shadow model can always be filled from it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from attnbench.training.config import TrainConfig
from attnbench.training.optimiser import make_optimiser
from attnbench.training.process import load_deepspeed

MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq"), "adam": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


class Engine:
    """`deepspeed.initialize` round `model`, which must lie on its device and hold its initial weights.

    workers: size of the process group, which must exist. `module` is what to call: the engine itself where
    ZeRO needs its
    hooks, else the bare module.
    """

    def __init__(self, model: nn.Module, train: TrainConfig, *, zero_stage: int, workers: int) -> None:
        device_type = next(model.parameters()).device.type
        deepspeed = load_deepspeed(device_type)
        self.train = train
        self.stage = zero_stage
        self.workers = workers
        # DeepSpeed's plain fp32 path neither reports the gradient norm nor is its clipping exact over
        # workers: done here.
        self.plain = zero_stage == 0 and train.precision == "fp32"
        self.names = [name for name, _ in model.named_parameters()]
        self.parameters = list(model.parameters())
        optimiser = make_optimiser(self.parameters, train)
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimiser, config=self._settings(), dist_init_required=False
        )
        if self.plain and workers == 1:
            self.engine.enable_backward_allreduce = False  # the mean over one worker
        if zero_stage == 0 and not self.plain:
            # the wrapper makes its state by a step with zero gradients, which already decays the weights
            for parameter, master in zip(self.parameters, self._masters(), strict=True):
                master.data.copy_(parameter.detach())
            self._inner().state.clear()
        self.module: Callable[..., Any] = self.engine.module if self.plain else self.engine

    def _settings(self) -> dict[str, Any]:
        train, elements = self.train, sum(parameter.numel() for parameter in self.parameters)
        settings: dict[str, Any] = {
            "train_batch_size": train.batch,
            "train_micro_batch_size_per_gpu": train.batch // (self.workers * train.grad_accum),
            "gradient_accumulation_steps": train.grad_accum,
            "gradient_clipping": 0.0 if self.plain else train.clip,
            "steps_per_print": None,
            # torch's AdamW, not DeepSpeed's for CPU, which compiles for most of a minute at first use
            "zero_force_ds_cpu_optimizer": False,
            "zero_allow_untested_optimizer": True,
        }
        if train.precision == "bf16":
            settings["bf16"] = {"enabled": True}
        if self.stage:
            settings["zero_optimization"] = {
                "stage": self.stage,
                "overlap_comm": False,
                # the default bucket of 5e8 elements would be allocated whole
                "reduce_bucket_size": max(elements, 1),
                "stage3_prefetch_bucket_size": max(elements, 1),
                # so that small models are partitioned at all
                "stage3_param_persistence_threshold": 10_000,
            }
        return settings

    def step(
        self, batches: Sequence[Any], loss: Callable[[Callable[..., Any], Any, int], Tensor], lr: float
    ) -> tuple[Tensor, Any]:
        """One optimiser step over this worker's micro-batches at learning rate `lr`.

        loss(module, batch, index of the micro-batch) -> scalar. Returns (loss averaged over micro-batches
        and workers,
        global gradient norm before clipping), not yet waited for.
        """
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        mean: Any = 0.0
        norm: Any = None
        for index, batch in enumerate(batches):
            value = loss(self.module, batch, index)
            self.engine.backward(value)
            mean = mean + value.detach() / len(batches)
            if self.plain and index == len(batches) - 1:
                norm = nn.utils.clip_grad_norm_(self.parameters, self.train.clip or float("inf"))
            self.engine.step()
        if self.workers > 1:
            dist.all_reduce(mean)
            mean = mean / self.workers
        return mean, norm if self.plain else self.engine.get_global_grad_norm()

    def weights(self) -> dict[str, Tensor]:
        """Every parameter whole, float32, by name; the live tensors where they already are that. All
        workers must call."""
        if self.plain:
            return {
                name: parameter.detach() for name, parameter in zip(self.names, self.parameters, strict=True)
            }
        if self.stage == 3:
            from deepspeed import zero

            with zero.GatheredParameters(self.parameters):
                return {
                    n: p.detach().float().clone() for n, p in zip(self.names, self.parameters, strict=True)
                }
        return {n: p.detach().float() for n, p in zip(self.names, self.parameters, strict=True)}

    def state(self) -> dict[str, Any]:
        """{"weights": master weights, "moments": {key: {name: tensor}}, "updates": steps of the
        optimiser}, on CPU.

        All workers must call; every one gets the whole.
        """
        inner = self._inner()
        updates = next((int(held["step"]) for held in inner.state.values() if "step" in held), 0)
        keys = [
            key for key in MOMENTS[self.train.optimiser] if any(key in held for held in inner.state.values())
        ]
        if self.stage == 0:
            masters = self._masters()
            found = {key: [inner.state[master][key] for master in masters] for key in keys}
        else:
            from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

            self._link()
            masters = [safe_get_full_fp32_param(parameter) for parameter in self.parameters]
            found = {key: [safe_get_full_optimizer_state(p, key) for p in self.parameters] for key in keys}
        return {
            "weights": {name: _copied(tensor) for name, tensor in zip(self.names, masters, strict=True)},
            "moments": {
                key: {name: _copied(tensor) for name, tensor in zip(self.names, tensors, strict=True)}
                for key, tensors in found.items()
            },
            "updates": updates,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned, in an engine whose model was built with `state["weights"]` as
        its initial weights."""
        inner, moments, updates = self._inner(), state["moments"], state["updates"]
        if self.stage == 0:
            for name, master in zip(self.names, self._masters(), strict=True):
                master.data.copy_(state["weights"][name])
                if moments:
                    held = {
                        key: tensors[name].to(master.device, copy=True) for key, tensors in moments.items()
                    }
                    inner.state[master] = self._with_step(held, updates, master)
            return
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if moments:
            for flat in self._flats():
                empty = {key: torch.zeros_like(flat) for key in moments}
                inner.state[flat] = self._with_step(empty, updates, flat)
            self._link()
        for name, parameter in zip(self.names, self.parameters, strict=True):
            if self.train.precision != "fp32":  # else they are the initial weights already
                safe_set_full_fp32_param(parameter, state["weights"][name].to(parameter.device))
            for key, tensors in moments.items():
                safe_set_full_optimizer_state(parameter, tensors[name].to(parameter.device), key)

    def _masters(self) -> list[Tensor]:
        """At stage 0: the float32 tensor behind each parameter, in order; the parameter itself in fp32."""
        if self.plain:
            return list(self.parameters)
        wrapper = self.engine.optimizer
        pairs = zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True)
        master = {id(low): high for lows, highs in pairs for low, high in zip(lows, highs, strict=True)}
        return [master[id(parameter)] for parameter in self.parameters]

    def _flats(self) -> list[Tensor]:
        """At stages 1 to 3: the flat float32 parts that torch's optimiser updates on this worker."""
        if self.stage == 3:  # lends them to torch's optimiser only while it steps
            return list(self.engine.optimizer.fp32_partitioned_groups_flat)
        return [flat for group in self._inner().param_groups for flat in group["params"]]

    def _link(self) -> None:
        """Make the optimiser's state reachable by parameter at stages 1 and 2.

        DeepSpeed links once, after the first group's first step, when the other groups have no state yet.
        """
        if self.stage in (1, 2) and self._inner().state:
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _with_step(self, held: dict[str, Tensor], updates: int, like: Tensor) -> dict[str, Tensor]:
        if self.train.optimiser != "sgd":
            held["step"] = torch.tensor(float(updates), device=like.device)
        return held

    def _inner(self) -> torch.optim.Optimizer:
        """torch's own optimiser beneath DeepSpeed's wrapper."""
        optimiser = self.engine.optimizer
        return optimiser if isinstance(optimiser, torch.optim.Optimizer) else optimiser.optimizer

    def state_bytes(self) -> int:
        """Bytes that weights and optimiser state take on this worker between steps."""
        # at stage 3 parameters come and go; what stays is each one's own part
        kept = [getattr(p, "ds_tensor", p) for p in self.parameters]
        masters = self._masters() if self.stage == 0 else self._flats()
        moments = [tensor for held in self._inner().state.values() for tensor in held.values()]
        sizes: dict[int, int] = {}
        for tensor in [*kept, *masters, *moments]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
        return sum(sizes.values())

    def destroy(self) -> None:
        """Let go of everything; without it each trial leaves its model behind in the process."""
        self.engine.destroy()
        for parameter in self.parameters:
            parameter.grad = None


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)
