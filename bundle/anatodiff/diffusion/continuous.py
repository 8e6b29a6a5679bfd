"""Continuous noise levels: training at any level, sampling at levels chosen for the number of steps."""

from __future__ import annotations

import math

import torch

from anatodiff.diffusion.schedule import DiscreteSchedule, NoiseSchedule

CONTINUOUS_PREDICTIONS = ("epsilon", "v")
DISTRIBUTIONS = ("lognormal", "uniform")
TIME_RANGE = 1000.0  # the network's time of noise alone, as on discrete schedules
KARRAS_RHO = 7.0  # more steps at low noise (Karras et al., sec. 3.1)


class ContinuousSchedule(NoiseSchedule):
    """A variance-preserving noise schedule without steps; its index is an angle phi in (0, pi/2), float64.

    alpha = cos phi and sigma = sin phi, so that tan phi is the ratio of noise to signal, the sigma of Karras et al. on
    data of unit variance; the network's time is 1000 phi / (pi/2). At whole times t a network trained on it is sampled
    by any DDPM or DDIM implementation with alphas_cumprod = cos^2(pi t / 2000).

    Args:
        prediction: "epsilon" or "v", see `NoiseSchedule`.
        noise: distribution of the levels in training, cut to `sigma_min`..`sigma_max`: "lognormal" of the ratio of
            noise to signal (EDM's), or "uniform" in the angle.
        noise_mean: mean of the logarithm of that ratio.
        noise_std: its standard deviation.
        sigma_min: least ratio of noise to signal, that of the last sampling step.
        sigma_max: largest ratio, that of the first sampling step.

    Raises:
        ValueError: the prediction does not go with continuous levels.

    References:
        Karras et al., https://arxiv.org/abs/2206.00364; Kingma et al., https://arxiv.org/abs/2107.00630
    """

    def __init__(
        self,
        prediction: str,
        noise: str,
        noise_mean: float,
        noise_std: float,
        sigma_min: float,
        sigma_max: float,
    ) -> None:
        # The variance between two steps has no meaning where there are none.
        super().__init__(prediction, learned_variance=False)
        if prediction not in CONTINUOUS_PREDICTIONS:
            raise ValueError(f"prediction must be one of {CONTINUOUS_PREDICTIONS} on continuous noise levels")
        self.noise, self.noise_mean, self.noise_std = noise, noise_mean, noise_std
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.lowest, self.highest = lognormal_shares(noise_mean, noise_std, sigma_min, sigma_max)

    def shares(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shares of signal and noise at angles (B,), 2 x (B,) float64."""
        return index.double().cos(), index.double().sin()

    def times(self, index: torch.Tensor) -> torch.Tensor:
        """The network's times at angles (B,), (B,) float32 in 0..1000."""
        return (TIME_RANGE * self.noise_levels(index)).float()

    def noise_levels(self, index: torch.Tensor) -> torch.Tensor:
        """Angles (B,) as shares of a right angle, (B,)."""
        return index / (math.pi / 2)

    def draw(self, uniform: torch.Tensor) -> torch.Tensor:
        """Turn uniform numbers (B,) in [0, 1) into angles (B,) of the training distribution, its quantiles."""
        if self.noise == "uniform":
            low, high = math.atan(self.sigma_min), math.atan(self.sigma_max)
            return low + (high - low) * uniform.double()
        share = self.lowest + (self.highest - self.lowest) * uniform.double()  # (B,) of the whole distribution
        return (self.noise_mean + self.noise_std * torch.special.ndtri(share)).exp().atan()

    def respaced(self, steps: int) -> DiscreteSchedule:
        """Choose the levels of a sampling, evenly spaced in the ratio of noise to signal to the power 1/7.

        Args:
            steps: number of steps, at least 1.

        Returns:
            a schedule of `steps` steps from `sigma_min` to `sigma_max`.

        Raises:
            ValueError: there are no steps.

        References:
            Karras et al., https://arxiv.org/abs/2206.00364, eq. 5
        """
        if steps < 1:
            raise ValueError(f"sampling steps must be at least 1, got {steps}; choose e.g. 18")
        ends = torch.tensor([self.sigma_max, self.sigma_min], dtype=torch.float64) ** (1 / KARRAS_RHO)  # (2,)
        ratios = ends[0] + torch.linspace(0, 1, steps, dtype=torch.float64) * (ends[1] - ends[0])  # (steps,)
        return self.at_angles((ratios**KARRAS_RHO).atan().flip(0))

    def at_angles(self, angles: torch.Tensor) -> DiscreteSchedule:
        """Make a schedule of steps at given levels.

        Args:
            angles: (T,) rising, in (0, pi/2].

        Returns:
            the schedule.
        """
        levels = self.noise_levels(angles.double())
        parts = (*self.shares(angles), self.times(angles), self.prediction)
        return DiscreteSchedule(*parts, levels=levels, learned_variance=False)


def lognormal_shares(mean: float, std: float, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """Shares of a log-normal distribution that lie below two values.

    Args:
        mean: mean of the logarithm.
        std: standard deviation of the logarithm.
        sigma_min: the lower value.
        sigma_max: the upper value.

    Returns:
        the two shares, in [0, 1].
    """
    bounds = torch.tensor([sigma_min, sigma_max], dtype=torch.float64).log()  # (2,)
    low, high = torch.special.ndtr((bounds - mean) / std).tolist()
    return low, high
