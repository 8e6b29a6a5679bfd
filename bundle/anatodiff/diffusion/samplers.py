"""Samplers: plain functions from noise to latents. Each runs through the steps of the schedule that it is given."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from anatodiff.diffusion.guidance import Denoiser
from anatodiff.diffusion.schedule import DiscreteSchedule

# step of the schedule -> (B, C, h, w) standard normal noise
NoiseSource = Callable[[int], torch.Tensor]


def ddim(denoise: Denoiser, x: torch.Tensor, schedule: DiscreteSchedule, noise: NoiseSource) -> torch.Tensor:
    """Sample without noise on the way (Song et al. 2021, https://arxiv.org/abs/2010.02502, eq. 12 with sigma = 0).

    On a flow's schedule this is Euler's method: both go straight on from the two estimates.

    Args:
        denoise: network output for (x_t, times, level); only its first C channels are used.
        x: (B, C, h, w) standard normal start.
        schedule: schedule with as many steps as wanted (`NoiseSchedule.respaced`).
        noise: not drawn from; the samplers share one signature.

    Returns:
        (B, C, h, w) scaled latents.
    """
    levels = schedule.levels.tolist()  # at once, as reading a number makes a GPU wait
    for step in reversed(range(len(schedule))):
        index = torch.full((len(x),), step, device=x.device)
        output = denoise(x, schedule.times(index), levels[step])  # (B, C or 2C, h, w)
        x0, eps = schedule.split(x, output[:, : x.shape[1]], index)  # 2 x (B, C, h, w)
        x = schedule.add_noise(x0, eps, index - 1) if step else x0  # (B, C, h, w)
    return x


def ddpm(denoise: Denoiser, x: torch.Tensor, schedule: DiscreteSchedule, noise: NoiseSource) -> torch.Tensor:
    """Sample with fresh noise at each step (Ho et al. 2020, algorithm 2), with the learned variance.

    Args:
        denoise: network output for (x_t, times, level): the prediction, then the variance fraction if it has 2C
            channels. Where the schedule has no learned variance, the posterior's is used.
        x: (B, C, h, w) standard normal start.
        schedule: schedule with as many steps as wanted.
        noise: noise of each step.

    Returns:
        (B, C, h, w) scaled latents.
    """
    channels, levels = x.shape[1], schedule.levels.tolist()
    for step in reversed(range(len(schedule))):
        index = torch.full((len(x),), step, device=x.device)
        out = denoise(x, schedule.times(index), levels[step])  # (B, C or 2C, h, w)
        x0, _ = schedule.split(x, out[:, :channels], index)  # (B, C, h, w)
        mean = schedule.posterior_mean(x, x0, index)  # (B, C, h, w)
        if out.shape[1] == 2 * channels and schedule.learned_variance:
            log_variance = schedule.log_variance(out[:, channels:], index)  # (B, C, h, w)
        else:
            log_variance = schedule.at(schedule.log_posterior_variance(), index, x)  # (B, 1, 1, 1)
        x = mean + (0.5 * log_variance).exp() * noise(step).to(x) if step else mean  # (B, C, h, w)
    return x


def dpmpp(denoise: Denoiser, x: torch.Tensor, schedule: DiscreteSchedule, noise: NoiseSource) -> torch.Tensor:
    """Sample without noise on the way, to second order: DPM-Solver++(2M) (Lu et al., algorithm 2).

    The estimate of x_0 is extrapolated linearly in lambda = log(alpha / sigma) from the last two steps; the first step
    is of first order, and the last one goes straight to the estimate, as ddim's does.

    Args:
        denoise: network output for (x_t, times, level); only its first C channels are used.
        x: (B, C, h, w) standard normal start.
        schedule: schedule with as many steps as wanted.
        noise: not drawn from.

    Returns:
        (B, C, h, w) scaled latents.

    References:
        Lu et al., https://arxiv.org/abs/2211.01095
    """
    alphas, sigmas, levels = (part.tolist() for part in (schedule.alphas, schedule.sigmas, schedule.levels))
    earlier: tuple[torch.Tensor, float] | None = None  # the last step's estimate and its length in lambda
    for step in reversed(range(len(schedule))):
        index = torch.full((len(x),), step, device=x.device)
        output = denoise(x, schedule.times(index), levels[step])  # (B, C or 2C, h, w)
        x0, _ = schedule.split(x, output[:, : x.shape[1]], index)  # (B, C, h, w)
        if step == 0:
            return x0
        alpha, sigma, alpha_next, sigma_next = alphas[step], sigmas[step], alphas[step - 1], sigmas[step - 1]
        # exp(-h) with h = lambda_next - lambda; 0 at a start in noise alone, where h is infinite.
        decay = (alpha * sigma_next) / (sigma * alpha_next)
        length = -math.log(decay) if decay else math.inf
        slope = 0.0 if earlier is None else length / (2 * earlier[1])
        ahead = x0 if earlier is None else x0 + slope * (x0 - earlier[0])  # (B, C, h, w)
        x = (sigma_next / sigma) * x + alpha_next * (1 - decay) * ahead  # (B, C, h, w)
        earlier = x0, length
    return x


SAMPLERS = {"ddim": ddim, "ddpm": ddpm, "dpmpp": dpmpp}
