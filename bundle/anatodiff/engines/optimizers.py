"""The optimisers: AdamW, or Muon for matrices and convolutions with AdamW for all other parameters."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from anatodiff.engines.devices import computes_bf16
from anatodiff.networks import trained_parameters

OPTIMIZERS = ("adamw", "muon")
ADAM_BETAS = {"adamw": (0.9, 0.999), "muon": (0.9, 0.99)}
MUON_LEARNING_RATE = 0.02
MOMENTUM = 0.95
SMALLEST_SIDE = 16  # below it a matrix has too few directions for its singular values to matter
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of Jordan et al.: steepest at zero, so that five iterations suffice
ITERATIONS = 5
# Layers at either end of a network, whose rows are channels of the latent and no features.
ENDS = ("stem.input.", "head.output.", "unet.conv_in.", "unet.out.")
PLAIN_ENDS = ("x_embedder.", "final_layer.linear.")  # of a DiT without a convolutional stem and head


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates for matrices and convolutions, AdamW for all other parameters.

    A convolution is the matrix (out, in * height * width). The update of a matrix is scaled by
    sqrt(max(1, rows / columns)). The first parameter group holds the matrices, the second the others.

    Args:
        matrices: parameters of two dimensions or more.
        others: parameters that AdamW updates.
        learning_rate: of AdamW.
        muon_learning_rate: of the matrices.
        momentum: of the matrices, in Nesterov's form.
        betas: of AdamW.
        weight_decay: of all parameters, decoupled, as a share of the learning rate.

    References:
        Jordan et al., "Muon", https://kellerjordan.github.io/posts/muon/; Loshchilov and Hutter,
        https://arxiv.org/abs/1711.05101
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        learning_rate: float = 1e-3,
        muon_learning_rate: float = MUON_LEARNING_RATE,
        momentum: float = MOMENTUM,
        betas: tuple[float, float] = ADAM_BETAS["muon"],
        weight_decay: float = 0.0,
    ) -> None:
        for option, rate in (("learning_rate", learning_rate), ("muon_learning_rate", muon_learning_rate)):
            if not rate >= 0:
                raise ValueError(f"{option} must not be negative, got {rate}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be from 0 to below 1, got {momentum}")
        rest: list[dict[str, Any]] = [{"params": list(others)}]
        self._adamw = torch.optim.AdamW(rest, learning_rate, betas, weight_decay=weight_decay, fused=True)
        first = {
            "params": list(matrices),
            "lr": muon_learning_rate,
            "momentum": momentum,
            "weight_decay": weight_decay,
        }
        super().__init__([first, *self._adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient.

        Args:
            closure: recomputes the loss; None: the gradients are there.

        Returns:
            the loss of the closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step_matrices(self.param_groups[0])
        # Loading a checkpoint replaces both.
        self._adamw.param_groups, self._adamw.state = self.param_groups[1:], self.state
        self._adamw.step()
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, buffers, group["momentum"])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        same: dict[torch.Size, list[int]] = defaultdict(list)
        for place, update in enumerate(updates):
            same[update.flatten(1).shape].append(place)
        for (rows, columns), places in same.items():
            stacked = orthogonalised(torch.stack([updates[place].flatten(1) for place in places]))  # (N, rows, columns)
            rate = group["lr"] * math.sqrt(max(1, rows / columns))
            for place, update in zip(places, stacked, strict=True):
                parameters[place].add_(update.reshape(parameters[place].shape), alpha=-rate)


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Bring all singular values near 1 by Newton-Schulz iterations X <- a X + (b X X' + c (X X')^2) X.

    They compute in bfloat16 where the processor does so fast: the values end between 0.7 and 1.2 anyway.

    Args:
        matrices: (N, rows, columns).

    Returns:
        (N, rows, columns) in the precision of the iterations.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT  # (N, m, n), m <= n
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    if computes_bf16(x.device):
        x = x.bfloat16()
    for _ in range(ITERATIONS):
        gram = x @ x.mT  # (N, m, m)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)  # (N, m, n)
    return x if matrices.shape[1] <= matrices.shape[2] else x.mT


def build_optimizer(
    model: nn.Module,
    name: str = "adamw",
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    muon_learning_rate: float | None = None,
    betas: tuple[float, float] | None = None,
) -> torch.optim.Optimizer:
    """Build the optimiser of all parameters that are trained.

    Args:
        model: network in training.
        name: "adamw", or "muon" for `Muon` on matrices and convolutions.
        learning_rate: of AdamW; the peak of `LearningRate`.
        weight_decay: decoupled, as a share of the learning rate.
        muon_learning_rate: of the matrices; None: 0.02. Only of "muon".
        betas: of AdamW; None: (0.9, 0.999), with "muon" (0.9, 0.99).

    Returns:
        the optimiser.

    Raises:
        ValueError: the name is not known, or the name or `muon_learning_rate` would do nothing.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer_name must be one of {OPTIMIZERS}, got {name!r}")
    betas = ADAM_BETAS[name] if betas is None else betas
    if name == "adamw":
        if muon_learning_rate is not None:
            raise ValueError("muon_learning_rate does nothing with optimizer_name 'adamw'; leave it out or take 'muon'")
        return torch.optim.AdamW(trained_parameters(model), learning_rate, betas, weight_decay=weight_decay)
    matrices, others = split_parameters(model)
    if not matrices:
        raise ValueError(
            "optimizer_name 'muon' is for matrices and none is trained; take 'adamw', or finetuning 'full'"
        )
    rate = MUON_LEARNING_RATE if muon_learning_rate is None else muon_learning_rate
    return Muon(matrices, others, learning_rate, rate, betas=betas, weight_decay=weight_decay)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Tell the parameters that `Muon` orthogonalises from all others that are trained.

    Others are vectors, embeddings, matrices with fewer than 16 rows or columns, and the first and last layer.

    Args:
        model: network in training.

    Returns:
        matrices and others, each in the model's order.
    """
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    ends = ENDS if getattr(model, "stem", None) is not None else ENDS + PLAIN_ENDS
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim >= 2 and min(parameter.flatten(1).shape) >= SMALLEST_SIDE
        own = is_matrix and parameter not in tables and not name.startswith(ends)
        (matrices if own else others).append(parameter)
    return matrices, others
