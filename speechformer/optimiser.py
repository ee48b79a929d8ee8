"""How weights move: Muon for the matrices of the layers, AdamW for everything else.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) makes each matrix's step orthogonal, so that every
direction learns alike, not only those with large gradients. Embeddings, what reads the sound, the CTC head, norms
and biases are not maps from hidden units to hidden units and stay with AdamW (Loshchilov and Hutter 2019).

Making a step orthogonal costs as much as half of a small batch's gradient. Where several processes train together,
each does it for its share of the matrices and tells the others (ZeRO stage 1, Rajbhandari et al. 2020, section 5.1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from speechformer.model import SpeechTransformer, has_fast_bfloat16


class Muon(torch.optim.Muon):
    """torch's Muon in the precision that a device is fast at.

    torch's own always makes steps orthogonal in bfloat16: on a CPU without instructions for that they took 4.8 s of a
    training step's 5.8.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the weights: momentum (Nesterov), orthogonalised, scaled to the size of AdamW's steps."""
        for group in self.param_groups:
            momentum = group["momentum"]
            fast = torch.bfloat16 if has_fast_bfloat16(group["params"][0].device.type) else torch.float32
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                velocity = state["momentum_buffer"]
                velocity.lerp_(weight.grad, 1 - momentum)
                moved = weight.grad.lerp(velocity, momentum) if group["nesterov"] else velocity
                moved = orthogonal(moved.to(fast), group["ns_coefficients"], group["ns_steps"], group["eps"])
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(moved, alpha=-0.2 * group["lr"] * max(weight.shape) ** 0.5)


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], n_steps: int, eps: float) -> Tensor:
    """Return a matrix with the same singular vectors and singular values near one, by Newton-Schulz iterations."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=eps)
    linear, cubic, quintic = coefficients
    for _ in range(n_steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic), wide, beta=linear)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


class Optimiser:
    """Both optimisers, stepped as one. Only the matrices are decayed.

    Muon's steps are scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982, equation 4), so one learning
    rate serves both. With `n_processes` over one, `step` and `state_dict` are called by all of them at once.
    """

    def __init__(self, model: SpeechTransformer, lr: float, weight_decay: float, n_processes: int = 1) -> None:
        matrices: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = []
        for name, weight in model.named_parameters():
            (matrices if ".layers." in name and weight.ndim == 2 else others).append(weight)
        settings: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "adjust_lr_fn": "match_rms_adamw"}
        self.parts: tuple[torch.optim.Optimizer, ...] = (
            _shared_muon(matrices, settings) if n_processes > 1 else Muon(matrices, **settings),
            torch.optim.AdamW(others, lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        )

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self, lr: float) -> None:
        """Move the weights at a learning rate."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered between steps; of several processes, the first has all and the others nothing."""
        shared = getattr(self.parts[0], "consolidate_state_dict", None)
        if shared is not None:
            shared(to=0)
            if torch.distributed.get_rank() != 0:
                return {}
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned. Raises KeyError or ValueError where it is of another optimiser."""
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])


def _shared_muon(matrices: list[torch.nn.Parameter], settings: dict[str, Any]) -> torch.optim.Optimizer:
    from torch.distributed.optim import ZeroRedundancyOptimizer  # late: to import it warns, and one process has no use

    return ZeroRedundancyOptimizer(matrices, Muon, **settings)
