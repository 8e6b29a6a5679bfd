"""The schedules that a base can have been trained on, as settings that its file keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from anatodiff.diffusion.schedule import NoiseSchedule

SCHEDULES = ("linear", "cosine", "flow")
REFERENCE_STEPS = 1000  # the number of steps that the usual betas are meant for
BETA_START, BETA_END = 1e-4, 0.02  # of DDPM and DiT, at the reference number of steps
COSINE_OFFSET = 0.008  # keeps the first steps from being too small (Nichol and Dhariwal eq. 17)
COSINE_LARGEST_BETA = 0.999
LEAST_STEPS = int(REFERENCE_STEPS * BETA_END) + 1  # fewer linear steps would need a beta above 1


@dataclass(frozen=True)
class DiffusionSettings:
    """A noise schedule and what the network predicts on it.

    Args:
        schedule: "linear": betas of DDPM and DiT, growing with 1000 / T so that it always ends in noise; "cosine": of
            Nichol and Dhariwal; "flow": the straight line of rectified flows and SiT.
        timesteps: number of steps T.
        prediction: "epsilon", "v" or "flow", see `NoiseSchedule`.
        zero_terminal_snr: rescale the schedule so that the last step is noise alone (Lin et al., algorithm 1).

    Raises:
        ValueError: an argument is not one of those, or they do not go together.

    References:
        Nichol and Dhariwal, https://arxiv.org/abs/2102.09672; Lin et al., https://arxiv.org/abs/2305.08891
    """

    schedule: str = "linear"
    timesteps: int = REFERENCE_STEPS
    prediction: str = "epsilon"
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {SCHEDULES}, got {self.schedule!r}")
        if self.timesteps < LEAST_STEPS:
            raise ValueError(f"timesteps must be at least {LEAST_STEPS}, got {self.timesteps}; 1000 is usual")
        if (self.schedule == "flow") != (self.prediction == "flow"):
            raise ValueError(
                f"schedule {self.schedule!r} and prediction {self.prediction!r} do not go together; "
                "'flow' is for both or for none"
            )
        if self.schedule == "cosine" and self.prediction == "epsilon":
            raise ValueError(
                "the cosine schedule ends with a thousandth of a percent of signal, where the noise does not tell the "
                "image; use prediction 'v'"
            )
        if self.schedule == "flow" and self.zero_terminal_snr:
            raise ValueError("a flow ends in noise alone as it is; leave zero_terminal_snr out")

    def build(self) -> NoiseSchedule:
        """Build the schedule.

        Returns:
            the schedule; where a zero terminal signal-to-noise ratio is claimed it has been checked.
        """
        if self.schedule == "flow":
            return flow_schedule(self.timesteps)
        betas = linear_betas(self.timesteps) if self.schedule == "linear" else cosine_betas(self.timesteps)
        alphas = (1 - betas).cumprod(0).sqrt()  # (T,)
        if self.zero_terminal_snr:
            alphas = without_terminal_signal(alphas)
        schedule = NoiseSchedule(alphas, (1 - alphas**2).sqrt(), torch.arange(self.timesteps), self.prediction)
        if self.zero_terminal_snr and float(schedule.alphas[-1]) != 0:
            raise ValueError(f"the {self.schedule} schedule claims no terminal signal but keeps {schedule.alphas[-1]}")
        return schedule


def linear_betas(timesteps: int) -> torch.Tensor:
    """Noise variances of DDPM and DiT, (T,) float64."""
    scale = REFERENCE_STEPS / timesteps
    return scale * torch.linspace(BETA_START, BETA_END, timesteps, dtype=torch.float64)


def cosine_betas(timesteps: int) -> torch.Tensor:
    """Noise variances of Nichol and Dhariwal's cosine, eq. 17, (T,) float64."""
    times = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    abar = torch.cos((times + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2  # (T + 1,)
    return (1 - abar[1:] / abar[:-1]).clamp(max=COSINE_LARGEST_BETA)


def without_terminal_signal(alphas: torch.Tensor) -> torch.Tensor:
    """Shift and stretch sqrt(abar) so that it ends at 0 and starts where it did (Lin et al., algorithm 1).

    Args:
        alphas: (T,) sqrt(abar), falling.

    Returns:
        (T,) with the last one exactly 0.
    """
    first, last = alphas[0], alphas[-1]
    return (alphas - last) * (first / (first - last))


def flow_schedule(timesteps: int) -> NoiseSchedule:
    """Build the straight line x = t x_0 + (1 - t) eps; the network is told t, 0 for noise and 1 for data, as SiT is.

    Args:
        timesteps: number of steps T between noise alone and almost clean.

    Returns:
        the schedule.
    """
    sigmas = torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps  # (T,)
    return NoiseSchedule(1 - sigmas, sigmas, (1 - sigmas).float(), prediction="flow")
