"""The training loss of AnatoDiff."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from anatodiff.diffusion import DiscreteSchedule, NoiseSchedule
from anatodiff.losses.edges import LatentEdgeLoss
from anatodiff.losses.topology import TopologicalWassersteinLoss

TIME_WEIGHTS = ("none", "signal")


class Prediction(NamedTuple):
    """The network's output and the input that it belongs to.

    Args:
        output: (B, C or 2C, h, w) what the base predicts (noise, v or flow), and the variance fraction.
        noised: (B, C, h, w) noised latents x_t.
    """

    output: torch.Tensor
    noised: torch.Tensor


class DiffusionTarget(NamedTuple):
    """What the prediction is compared with.

    Args:
        x0: (B, C, h, w) clean, scaled latents.
        noise: (B, C, h, w) noise that was added.
        steps: (B,) steps of the schedule, or angles of continuous noise levels.
        channels: (B, C) latent channels of each image in random order, for the anatomical loss.
    """

    x0: torch.Tensor
    noise: torch.Tensor
    steps: torch.Tensor
    channels: torch.Tensor


class AnatoDiffLoss(nn.Module):
    """Prediction error, learned-variance term and Anatomical Fidelity loss: L = L_MSE + L_var + lambda W_1 (eq. 19).

    An edge loss can be added.

    Args:
        schedule: noise schedule.
        topology: the Anatomical Fidelity loss with reduction "none"; None leaves it out.
        topology_weight: lambda; 2e-6 in the paper.
        topology_time: weight of an image's term by its time: "none" all alike, "signal" by alpha_t, which for a
            network that predicts the noise cancels the 1 / alpha_t that the one-step estimate puts on its gradient.
        topology_until: noise level, as a share of the schedule's steps (of the right angle for continuous levels) from
            the clean end, above which an image's term is left out; 1 keeps all.
        variance_weight: weight of the variational bound, which trains the variance alone (Nichol and Dhariwal,
            https://arxiv.org/abs/2102.09672, sec. 3.1); 0 leaves it out, as do flows and continuous noise levels.
        edge_weight: weight of `LatentEdgeLoss` on the same estimates, with the same weights by time; 0, as in the
            paper, leaves it out.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        topology: TopologicalWassersteinLoss | None = None,
        topology_weight: float = 2e-6,
        topology_time: str = "none",
        topology_until: float = 1.0,
        variance_weight: float = 1.0,
        edge_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if min(topology_weight, variance_weight, edge_weight) < 0:
            weights = f"{topology_weight}, {variance_weight} and {edge_weight}"
            raise ValueError(f"loss weights must not be negative, got {weights}")
        if topology_time not in TIME_WEIGHTS:
            raise ValueError(f"topology_time must be one of {TIME_WEIGHTS}, got {topology_time!r}")
        if not 0 < topology_until <= 1:
            raise ValueError(f"topology_until must be above 0 and at most 1, got {topology_until}")
        if topology is not None and topology.reduction != "none":
            raise ValueError(f"the topological loss must have reduction 'none', not {topology.reduction!r}")
        if topology is not None and (topology.slices or 2 in topology.homology):
            raise ValueError(f"latents are no volumes: the topological loss cannot have {topology.extra_repr()}")
        if topology is not None and topology_weight:
            topology.warm_up()
        self.schedule, self.topology = schedule, topology
        self.topology_weight, self.variance_weight, self.edge_weight = topology_weight, variance_weight, edge_weight
        self.edges = LatentEdgeLoss()
        self.topology_time, self.topology_until = topology_time, topology_until
        self.parts: dict[str, float] = {}

    def forward(self, prediction: Prediction, target: DiffusionTarget) -> torch.Tensor:
        """Compute the loss.

        Args:
            prediction: network output and noised latents.
            target: clean latents, noise, steps and channels.

        Returns:
            the loss, a scalar, in float32 whatever the network computed in.
        """
        prediction = Prediction(prediction.output.float(), prediction.noised)
        channels = target.x0.shape[1]
        predicted = prediction.output[:, :channels]  # (B, C, h, w)
        mse = nn.functional.mse_loss(predicted, self.schedule.target(target.x0, target.noise, target.steps))
        loss, parts = mse, {"mse": mse}
        has_variance = prediction.output.shape[1] == 2 * channels and self.schedule.learned_variance
        if self.variance_weight and has_variance:
            assert isinstance(self.schedule, DiscreteSchedule)
            parts["variance"] = variance_bound(self.schedule, prediction, target).mean()
            loss = loss + self.variance_weight * parts["variance"]
        if self.topology is not None and self.topology_weight:
            parts["topology"] = self._of_estimates(self._anatomical, prediction.noised, predicted, target)
            loss = loss + self.topology_weight * parts["topology"]
        if self.edge_weight:
            parts["edges"] = self._of_estimates(self._edges, prediction.noised, predicted, target)
            loss = loss + self.edge_weight * parts["edges"]
        self.parts = {name: float(part.detach()) for name, part in parts.items()}
        return loss

    def _of_estimates(
        self,
        distance: Callable[[torch.Tensor, DiffusionTarget], torch.Tensor],
        noised: torch.Tensor,
        predicted: torch.Tensor,
        target: DiffusionTarget,
    ) -> torch.Tensor:
        """Weighted mean over the batch of the distance of the one-step estimates to the truth."""
        images, near = len(target.steps), target
        if self.topology_until < 1:  # looking which ones are left makes a GPU wait
            kept = (self.schedule.noise_levels(target.steps) <= self.topology_until).nonzero()[:, 0]  # (b,)
            if len(kept) == 0:
                return 0 * predicted.sum()  # keeps the graph: some backends need every parameter in every step
            near = DiffusionTarget(*(tensor[kept] for tensor in target))
            noised, predicted = noised[kept], predicted[kept]  # 2 x (b, C, h, w)
        estimate, _ = self.schedule.split(noised, predicted, near.steps)  # (b, C, h, w)
        distances = distance(estimate, near)  # (b,)
        if self.topology_time == "signal":
            distances = self.schedule.shares(near.steps)[0].to(distances) * distances  # (b,)
        return distances.sum() / images

    def _anatomical(self, estimate: torch.Tensor, target: DiffusionTarget) -> torch.Tensor:
        assert self.topology is not None
        if not bool(estimate.isfinite().all()):
            return 0 * estimate.flatten(1).sum(1)  # (B,) no number, and the step is skipped; diagrams refuse it
        random = self.topology.channels == "random"
        channels = target.channels[:, : self.topology.n_random] if random else None  # (b, n)
        return self.topology(estimate, target.x0, channel=channels)  # (b,)

    def _edges(self, estimate: torch.Tensor, target: DiffusionTarget) -> torch.Tensor:
        return self.edges(estimate, target.x0)  # (b,)


def variance_bound(schedule: DiscreteSchedule, prediction: Prediction, target: DiffusionTarget) -> torch.Tensor:
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
    predicted, fraction = prediction.output.detach()[:, :channels], prediction.output[:, channels:]  # 2 x (B, C, h, w)
    x0, _ = schedule.split(prediction.noised, predicted, target.steps)  # (B, C, h, w)
    mean = schedule.posterior_mean(prediction.noised, x0, target.steps)  # (B, C, h, w)
    log_variance = schedule.log_variance(fraction, target.steps)  # (B, C, h, w)
    true_mean = schedule.posterior_mean(prediction.noised, target.x0, target.steps)  # (B, C, h, w)
    true_log = schedule.at(schedule.log_posterior_variance(), target.steps, mean)  # (B, 1, 1, 1)
    square = (true_mean - mean) ** 2  # (B, C, h, w)
    kl = 0.5 * (log_variance - true_log + ((true_log - log_variance).exp() + square * (-log_variance).exp()) - 1)
    nll = 0.5 * (math.log(2 * math.pi) + log_variance + (target.x0 - mean) ** 2 * (-log_variance).exp())
    first = (target.steps == 0).reshape(-1, 1, 1, 1)  # (B, 1, 1, 1)
    return torch.where(first, nll, kl).flatten(1).mean(1) / math.log(2)  # (B,)
