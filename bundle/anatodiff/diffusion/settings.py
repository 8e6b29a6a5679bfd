"""The schedules that a base can have been trained on, as settings that its file keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch

from anatodiff.diffusion.continuous import (
    CONTINUOUS_PREDICTIONS,
    DISTRIBUTIONS,
    ContinuousSchedule,
    lognormal_shares,
)
from anatodiff.diffusion.schedule import DiscreteSchedule, NoiseSchedule

SCHEDULES = ("linear", "cosine", "flow", "continuous")
REFERENCE_STEPS = 1000  # the number of steps that the usual betas are meant for
BETA_START, BETA_END = 1e-4, 0.02  # of DDPM and DiT, at the reference number of steps
COSINE_OFFSET = 0.008  # keeps the first steps from being too small (Nichol and Dhariwal eq. 17)
COSINE_LARGEST_BETA = 0.999
LEAST_STEPS = int(REFERENCE_STEPS * BETA_END) + 1  # fewer linear steps would need a beta above 1
OF_STEPS = ("timesteps", "zero_terminal_snr")
OF_LOGNORMAL = ("noise_mean", "noise_std")
OF_CONTINUOUS = ("noise", *OF_LOGNORMAL, "sigma_min", "sigma_max")
BOUNDS = {"noise_mean": (-5, 5), "noise_std": (0.01, 5), "sigma_min": (1e-4, 1), "sigma_max": (1, 1000)}
LEAST_SHARE = 0.5  # of a log-normal distribution that has to lie within the levels that are sampled


@dataclass(frozen=True)
class DiffusionSettings:
    """A noise schedule and what the network predicts on it.

    Args:
        schedule: "linear": betas of DDPM and DiT, growing with 1000 / T so that it always ends in noise; "cosine": of
            Nichol and Dhariwal; "flow": the straight line of rectified flows and SiT; "continuous": levels without
            steps, see `ContinuousSchedule`.
        timesteps: number of steps T.
        prediction: "epsilon", "v" or "flow", see `NoiseSchedule`.
        zero_terminal_snr: rescale the schedule so that the last step is noise alone (Lin et al., algorithm 1).
        noise: distribution of continuous levels in training: "lognormal", or "uniform" in time.
        noise_mean: mean of log(noise / signal) of the log-normal distribution, -5 to 5.
        noise_std: its standard deviation, 0.01 to 5.
        sigma_min: least noise / signal of continuous levels, 1e-4 to 1.
        sigma_max: largest noise / signal of continuous levels, 1 to 1000.

    Raises:
        ValueError: an argument is not one of those, or they do not go together.

    References:
        Nichol and Dhariwal, https://arxiv.org/abs/2102.09672; Lin et al., https://arxiv.org/abs/2305.08891;
        Karras et al., https://arxiv.org/abs/2206.00364
    """

    schedule: str = "linear"
    timesteps: int = REFERENCE_STEPS
    prediction: str = "epsilon"
    zero_terminal_snr: bool = False
    noise: str = "lognormal"
    noise_mean: float = 0.3
    noise_std: float = 1.2
    sigma_min: float = 0.02
    sigma_max: float = 30.0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {SCHEDULES}, got {self.schedule!r}")
        self._check_unused()
        if self.schedule == "continuous":
            self._check_continuous()
            return
        if self.timesteps < LEAST_STEPS:
            raise ValueError(f"timesteps must be at least {LEAST_STEPS}, got {self.timesteps}; 1000 is usual")
        if (self.schedule == "flow") != (self.prediction == "flow"):
            raise ValueError(
                f"schedule {self.schedule!r} and prediction {self.prediction!r} do not go together; "
                "'flow' is for both or for none"
            )
        if self.schedule == "cosine" and self.prediction == "epsilon":
            raise ValueError(
                "the cosine schedule ends with a thousandth of a percent of signal, where the noise does not determine "
                "the image; use prediction 'v'"
            )
        if self.schedule == "flow" and self.zero_terminal_snr:
            raise ValueError("a flow ends in noise alone as it is; leave zero_terminal_snr out")

    def _check_unused(self) -> None:
        """Refuse settings of another schedule, which would change nothing."""
        names = OF_STEPS if self.schedule == "continuous" else OF_CONTINUOUS
        unused = dict.fromkeys(names, f"schedule {self.schedule!r}")
        if self.schedule == "continuous" and self.noise == "uniform":
            unused |= dict.fromkeys(OF_LOGNORMAL, "noise 'uniform'")
        for field in fields(self):
            if field.name in unused and getattr(self, field.name) != field.default:
                raise ValueError(f"{unused[field.name]} has no {field.name}; leave {field.name} out")

    def _check_continuous(self) -> None:
        """Refuse continuous levels that cannot be trained or sampled."""
        if self.prediction not in CONTINUOUS_PREDICTIONS:
            raise ValueError(
                f"prediction must be one of {CONTINUOUS_PREDICTIONS} with schedule 'continuous', got "
                f"{self.prediction!r}; 'flow' is for schedule 'flow'"
            )
        if self.noise not in DISTRIBUTIONS:
            raise ValueError(f"noise must be one of {DISTRIBUTIONS}, got {self.noise!r}")
        for name, (low, high) in BOUNDS.items():
            if not low <= getattr(self, name) <= high:  # NaN, too
                raise ValueError(f"{name} must be {low:g} to {high:g}, got {getattr(self, name)}")
        if not self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min must be below sigma_max, got {self.sigma_min} and {self.sigma_max}")
        below, until = lognormal_shares(self.noise_mean, self.noise_std, self.sigma_min, self.sigma_max)
        if self.noise == "lognormal" and until - below < LEAST_SHARE:
            raise ValueError(
                f"noise_mean {self.noise_mean:g} and noise_std {self.noise_std:g} put {1 - until + below:.0%} of the "
                f"levels outside sigma_min {self.sigma_min:g} to sigma_max {self.sigma_max:g}; choose e.g. 0.3 and 1.2"
            )

    def build(self) -> NoiseSchedule:
        """Build the schedule.

        Returns:
            the schedule; where a zero terminal signal-to-noise ratio is claimed it has been checked.
        """
        if self.schedule == "flow":
            return flow_schedule(self.timesteps)
        if self.schedule == "continuous":
            levels = (self.noise, self.noise_mean, self.noise_std, self.sigma_min, self.sigma_max)
            return ContinuousSchedule(self.prediction, *levels)
        betas = linear_betas(self.timesteps) if self.schedule == "linear" else cosine_betas(self.timesteps)
        alphas = (1 - betas).cumprod(0).sqrt()  # (T,)
        if self.zero_terminal_snr:
            alphas = without_terminal_signal(alphas)
        schedule = DiscreteSchedule(alphas, (1 - alphas**2).sqrt(), torch.arange(self.timesteps), self.prediction)
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


def flow_schedule(timesteps: int) -> DiscreteSchedule:
    """Build the straight line x = t x_0 + (1 - t) eps; the network's time is t, 0 for noise and 1 for data, as SiT's.

    Args:
        timesteps: number of steps T between noise alone and almost clean.

    Returns:
        the schedule.
    """
    sigmas = torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps  # (T,)
    return DiscreteSchedule(1 - sigmas, sigmas, (1 - sigmas).float(), prediction="flow")
