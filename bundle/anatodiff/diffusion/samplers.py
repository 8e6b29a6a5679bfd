"""Samplers: plain functions from noise to latents. Each runs through the steps of the schedule that it is given."""

from __future__ import annotations

from collections.abc import Callable

import torch

from anatodiff.diffusion.guidance import Denoiser
from anatodiff.diffusion.schedule import NoiseSchedule

# step of the schedule -> (B, C, h, w) standard normal noise
NoiseSource = Callable[[int], torch.Tensor]


def ddim(denoise: Denoiser, x: torch.Tensor, schedule: NoiseSchedule, noise: NoiseSource) -> torch.Tensor:
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
    for step in reversed(range(len(schedule))):
        index = torch.full((len(x),), step, device=x.device)
        said = denoise(x, schedule.timesteps[index], float(schedule.levels[step]))  # (B, C or 2C, h, w)
        x0, eps = schedule.split(x, said[:, : x.shape[1]], index)  # 2 x (B, C, h, w)
        x = schedule.add_noise(x0, eps, index - 1) if step else x0  # (B, C, h, w)
    return x


def ddpm(denoise: Denoiser, x: torch.Tensor, schedule: NoiseSchedule, noise: NoiseSource) -> torch.Tensor:
    """Sample with fresh noise at each step (Ho et al. 2020, algorithm 2), with the learned variance.

    Args:
        denoise: network output for (x_t, times, level): the prediction, then the variance fraction if it has 2C
            channels. A flow's second half is not trained, there the posterior's variance is used.
        x: (B, C, h, w) standard normal start.
        schedule: schedule with as many steps as wanted.
        noise: noise of each step.

    Returns:
        (B, C, h, w) scaled latents.
    """
    channels = x.shape[1]
    for step in reversed(range(len(schedule))):
        index = torch.full((len(x),), step, device=x.device)
        out = denoise(x, schedule.timesteps[index], float(schedule.levels[step]))  # (B, C or 2C, h, w)
        x0, _ = schedule.split(x, out[:, :channels], index)  # (B, C, h, w)
        mean = schedule.posterior_mean(x, x0, index)  # (B, C, h, w)
        if out.shape[1] == 2 * channels and schedule.prediction != "flow":
            log_variance = schedule.log_variance(out[:, channels:], index)  # (B, C, h, w)
        else:
            log_variance = schedule.at(schedule.log_posterior_variance(), index, x)  # (B, 1, 1, 1)
        x = mean + (0.5 * log_variance).exp() * noise(step).to(x) if step else mean  # (B, C, h, w)
    return x


SAMPLERS = {"ddim": ddim, "ddpm": ddpm}
