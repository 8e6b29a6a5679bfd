"""The training loss of AnatoDiff."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from anatodiff.diffusion import NoiseSchedule
from anatodiff.losses.topology import TopologicalWassersteinLoss


class Prediction(NamedTuple):
    """What the network was given and what it said.

    Args:
        output: (B, C or 2C, h, w) predicted noise, and the variance fraction.
        noised: (B, C, h, w) latents x_t that it saw.
    """

    output: torch.Tensor
    noised: torch.Tensor


class DiffusionTarget(NamedTuple):
    """What the prediction is compared with.

    Args:
        x0: (B, C, h, w) clean, scaled latents.
        noise: (B, C, h, w) noise that was added.
        steps: (B,) steps of the schedule.
        channel: (B,) latent channel of each image for the anatomical loss.
    """

    x0: torch.Tensor
    noise: torch.Tensor
    steps: torch.Tensor
    channel: torch.Tensor


class AnatoDiffLoss(nn.Module):
    """Noise error, learned-variance term and Anatomical Fidelity loss: L = L_MSE + L_var + lambda W_1 (eq. 19).

    Args:
        schedule: noise schedule.
        topology: the Anatomical Fidelity loss; None leaves it out.
        topology_weight: lambda; 2e-6 in the paper.
        variance_weight: weight of the variational bound, which trains the variance alone (Nichol and Dhariwal,
            https://arxiv.org/abs/2102.09672, sec. 3.1); 0 leaves it out.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        topology: TopologicalWassersteinLoss | None = None,
        topology_weight: float = 2e-6,
        variance_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if topology_weight < 0 or variance_weight < 0:
            raise ValueError(f"loss weights must not be negative, got {topology_weight} and {variance_weight}")
        self.schedule, self.topology = schedule, topology
        self.topology_weight, self.variance_weight = topology_weight, variance_weight
        self.parts: dict[str, float] = {}

    def forward(self, prediction: Prediction, target: DiffusionTarget) -> torch.Tensor:
        """Compute the loss.

        Args:
            prediction: network output and noised latents.
            target: clean latents, noise, steps and channels.

        Returns:
            the loss, a scalar.
        """
        channels = target.x0.shape[1]
        noise = prediction.output[:, :channels]  # (B, C, h, w)
        mse = nn.functional.mse_loss(noise, target.noise)
        loss, parts = mse, {"mse": mse}
        if self.variance_weight and prediction.output.shape[1] == 2 * channels:
            parts["variance"] = variance_bound(self.schedule, prediction, target).mean()
            loss = loss + self.variance_weight * parts["variance"]
        if self.topology is not None and self.topology_weight:
            estimate = self.schedule.estimate_x0(prediction.noised, noise, target.steps)  # (B, C, h, w)
            channel = target.channel if self.topology.channels == "random" else None
            parts["topology"] = self.topology(estimate, target.x0, channel=channel)
            loss = loss + self.topology_weight * parts["topology"]
        self.parts = {name: float(part.detach()) for name, part in parts.items()}
        return loss


def variance_bound(schedule: NoiseSchedule, prediction: Prediction, target: DiffusionTarget) -> torch.Tensor:
    """Variational bound of each image with the mean held fixed, so that only the variance learns from it.

    At t = 0 the decoder's likelihood takes the place of the divergence; for continuous latents it is the Gaussian's.

    Args:
        schedule: noise schedule.
        prediction: network output with 2C channels, and noised latents.
        target: clean latents and steps.

    Returns:
        (B,) bits per latent value.
    """
    channels = target.x0.shape[1]
    noise, fraction = prediction.output.detach()[:, :channels], prediction.output[:, channels:]  # 2 x (B, C, h, w)
    x0 = schedule.estimate_x0(prediction.noised, noise, target.steps)  # (B, C, h, w)
    mean = schedule.posterior_mean(prediction.noised, x0, target.steps)  # (B, C, h, w)
    log_variance = schedule.log_variance(fraction, target.steps)  # (B, C, h, w)
    true_mean = schedule.posterior_mean(prediction.noised, target.x0, target.steps)  # (B, C, h, w)
    true_log = schedule.at(schedule.log_posterior_variance(), target.steps, mean)  # (B, 1, 1, 1)
    square = (true_mean - mean) ** 2  # (B, C, h, w)
    kl = 0.5 * (log_variance - true_log + ((true_log - log_variance).exp() + square * (-log_variance).exp()) - 1)
    nll = 0.5 * (math.log(2 * math.pi) + log_variance + (target.x0 - mean) ** 2 * (-log_variance).exp())
    first = (target.steps == 0).reshape(-1, 1, 1, 1)  # (B, 1, 1, 1)
    return torch.where(first, nll, kl).flatten(1).mean(1) / math.log(2)  # (B,)
