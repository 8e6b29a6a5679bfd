"""Noise schedules, what a network predicts on them, and what follows in closed form."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

PREDICTIONS = ("epsilon", "v", "flow")


class NoiseSchedule(nn.Module, ABC):
    """A noise schedule x_t = alpha_t x_0 + sigma_t eps, and what a network predicts on it.

    Where on the schedule an image stands is its index: a step of a `DiscreteSchedule`, an angle of a
    `ContinuousSchedule`. With alpha^2 = abar and sigma^2 = 1 - abar it is AnatoDiff's eq. 1-2; with alpha + sigma = 1
    it is a rectified flow.

    Args:
        prediction: "epsilon" the noise, "v" the velocity alpha eps - sigma x_0 (Salimans and Ho), "flow" the direction
            x_0 - eps (Liu et al.; SiT's sign).
        learned_variance: whether the second half of an output of 2C channels is the variance fraction of Nichol and
            Dhariwal; otherwise it is left untrained and unused.

    Raises:
        ValueError: unknown prediction.

    References:
        Ho et al., https://arxiv.org/abs/2006.11239; Nichol and Dhariwal, https://arxiv.org/abs/2102.09672; Salimans
        and Ho, https://arxiv.org/abs/2202.00512; Liu et al., https://arxiv.org/abs/2209.03003; Ma et al., "SiT",
        https://arxiv.org/abs/2401.08740; Kingma et al., https://arxiv.org/abs/2107.00630
    """

    def __init__(self, prediction: str, learned_variance: bool) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction must be one of {PREDICTIONS}, got {prediction!r}")
        self.prediction, self.learned_variance = prediction, learned_variance

    @abstractmethod
    def shares(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shares of signal and noise, alpha and sigma, at indices (B,): 2 x (B,) float64."""

    @abstractmethod
    def times(self, index: torch.Tensor) -> torch.Tensor:
        """The network's times (B,) at indices (B,)."""

    @abstractmethod
    def noise_levels(self, index: torch.Tensor) -> torch.Tensor:
        """Where on the schedule indices (B,) stand, above 0 (clean) to 1 (noise), (B,)."""

    @abstractmethod
    def draw(self, uniform: torch.Tensor) -> torch.Tensor:
        """Turn uniform numbers (B,) in [0, 1) into indices (B,), distributed as in training."""

    @abstractmethod
    def respaced(self, steps: int) -> DiscreteSchedule:
        """Choose the steps of a sampling, from the noisiest level down; `steps` is their number."""

    def shares_like(self, index: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shares of signal and noise, 2 x (B, 1, ...), in the dimensions and the type of `like`, (B, ...)."""
        alpha, sigma = self.shares(index)
        return _fitted(alpha, like), _fitted(sigma, like)

    def add_noise(self, x0: torch.Tensor, noise: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Noise clean latents: x_t = alpha x_0 + sigma eps (inside AnatoDiff eq. 5).

        Args:
            x0: (B, C, h, w) clean, scaled latents.
            noise: (B, C, h, w) standard normal.
            index: (B,) steps or angles.

        Returns:
            (B, C, h, w) noised latents.
        """
        alpha, sigma = self.shares_like(index, x0)  # 2 x (B, 1, 1, 1)
        return alpha * x0 + sigma * noise  # (B, C, h, w)

    def target(self, x0: torch.Tensor, noise: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The network's target.

        Args:
            x0: (B, C, h, w) clean, scaled latents.
            noise: (B, C, h, w) the noise that was added.
            index: (B,) steps or angles.

        Returns:
            (B, C, h, w) noise, v or flow.
        """
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "flow":
            return x0 - noise  # (B, C, h, w)
        alpha, sigma = self.shares_like(index, x0)  # 2 x (B, 1, 1, 1)
        return alpha * noise - sigma * x0  # (B, C, h, w)

    def split(
        self,
        x_t: torch.Tensor,
        predicted: torch.Tensor,
        index: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Estimate the image and the noise from the network's prediction, in one step.

        For "epsilon" it is x_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar), AnatoDiff's one-step estimate.

        Args:
            x_t: (B, C, h, w) noised latents.
            predicted: (B, C, h, w) prediction.
            index: (B,) steps or angles.

        Returns:
            estimates of x_0 and of the noise, each (B, C, h, w).
        """
        alpha, sigma = self.shares_like(index, x_t)  # 2 x (B, 1, 1, 1)
        if self.prediction == "epsilon":
            return (x_t - sigma * predicted) / alpha, predicted
        # With u = x_0 - eps and v = alpha eps - sigma x_0, x_t = alpha x_0 + sigma eps is solved for both unknowns.
        if self.prediction == "flow":
            total = alpha + sigma  # (B, 1, 1, 1)
            return (x_t + sigma * predicted) / total, (x_t - alpha * predicted) / total
        power = alpha**2 + sigma**2  # (B, 1, 1, 1)
        return (alpha * x_t - sigma * predicted) / power, (sigma * x_t + alpha * predicted) / power


class DiscreteSchedule(NoiseSchedule):
    """A noise schedule of T steps, from almost clean to almost or wholly noise; its index is the step, int64.

    The steps between two times s < t are those of any such pair (Kingma et al., appendix A):
    alpha_ts = alpha_t / alpha_s, sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2, which for the first kind is beta_t.

    Args:
        alphas: (T,) share of the signal, float64, falling, in [0, 1).
        sigmas: (T,) share of the noise, float64, rising, in (0, 1].
        timesteps: (T,) the network's time at each of them.
        prediction: what the network predicts, see `NoiseSchedule`.
        levels: (T,) where on the whole schedule each step stands; None: evenly, the last at 1.
        learned_variance: see `NoiseSchedule`; None: for all predictions but "flow" (SiT drops it).

    Raises:
        ValueError: the shares do not fall and rise, or noise is predicted where no signal is left.
    """

    alphas: torch.Tensor
    sigmas: torch.Tensor
    timesteps: torch.Tensor
    levels: torch.Tensor

    def __init__(
        self,
        alphas: torch.Tensor,
        sigmas: torch.Tensor,
        timesteps: torch.Tensor,
        prediction: str = "epsilon",
        levels: torch.Tensor | None = None,
        learned_variance: bool | None = None,
    ) -> None:
        super().__init__(prediction, prediction != "flow" if learned_variance is None else learned_variance)
        alphas, sigmas = alphas.double(), sigmas.double()
        falls = bool((alphas.diff() < 0).all() and (sigmas.diff() > 0).all())
        if not falls or not 0 <= float(alphas[-1]) <= float(alphas[0]) < 1 or not float(sigmas[0]) > 0:
            raise ValueError("alphas must fall and sigmas rise strictly inside [0, 1]; check the schedule's betas")
        if prediction == "epsilon" and float(alphas[-1]) == 0:
            raise ValueError(
                "with zero terminal signal-to-noise ratio the noise does not determine the image; use prediction 'v'"
            )
        self.register_buffer("alphas", alphas)
        self.register_buffer("sigmas", sigmas)
        self.register_buffer("timesteps", timesteps)
        share = torch.arange(1, len(alphas) + 1, dtype=torch.float64) / len(alphas)
        self.register_buffer("levels", share if levels is None else levels)

    def __len__(self) -> int:
        return len(self.alphas)

    def shares(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shares of signal and noise at steps (B,), 2 x (B,) float64."""
        return self.alphas[index], self.sigmas[index]

    def times(self, index: torch.Tensor) -> torch.Tensor:
        """The network's times (B,) at steps (B,)."""
        return self.timesteps[index]

    def noise_levels(self, index: torch.Tensor) -> torch.Tensor:
        """Shares of the schedule's steps that steps (B,) stand at, (B,) float64 in (0, 1]."""
        return self.levels[index]

    def draw(self, uniform: torch.Tensor) -> torch.Tensor:
        """Turn uniform numbers (B,) in [0, 1) into steps (B,), each as likely as the others."""
        return (uniform * len(self)).long()

    @property
    def step_variance(self) -> torch.Tensor:
        """The noise that one step adds, sigma_ts^2, (T,): beta_t of a variance-preserving schedule."""
        before_alpha, before_sigma = self._before()
        return self.sigmas**2 - (self.alphas / before_alpha * before_sigma) ** 2

    @property
    def posterior_variance(self) -> torch.Tensor:
        """The variance of q(x_s | x_t, x_0), (T,): 0 at the first step."""
        return self.step_variance * (self._before()[1] / self.sigmas) ** 2

    def _before(self) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha_s and sigma_s of the next cleaner step; before the first all is signal."""
        first = self.alphas.new_ones(1)
        return torch.cat([first, self.alphas[:-1]]), torch.cat([0 * first, self.sigmas[:-1]])

    def at(self, values: torch.Tensor, index: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Pick schedule values for a batch, ready to multiply images.

        Args:
            values: (T,) a buffer of this schedule.
            index: (B,) positions in the schedule.
            like: (B, ...) tensor whose dimensions and type the result fits.

        Returns:
            (B, 1, ...) values.
        """
        return _fitted(values[index], like)

    def posterior_mean(self, x_t: torch.Tensor, x0: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Mean of q(x_s | x_t, x_0), s the next cleaner step (Ho et al. eq. 7).

        Args:
            x_t: (B, C, h, w) noised latents.
            x0: (B, C, h, w) clean latents or their estimate.
            index: (B,) positions in the schedule.

        Returns:
            (B, C, h, w) mean.
        """
        before_alpha, before_sigma = self._before()
        of_x0 = self.at(before_alpha * self.step_variance / self.sigmas**2, index, x_t)
        of_xt = self.at(self.alphas / before_alpha * (before_sigma / self.sigmas) ** 2, index, x_t)
        return of_x0 * x0 + of_xt * x_t  # (B, C, h, w)

    def log_variance(self, fraction: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Learned log-variance between the two bounds (Nichol and Dhariwal eq. 15).

        Args:
            fraction: (B, C, h, w) network output; -1 is the posterior's variance, 1 is beta.
            index: (B,) positions in the schedule.

        Returns:
            (B, C, h, w) log-variance of p(x_s | x_t).
        """
        low = self.at(self.log_posterior_variance(), index, fraction)
        high = self.at(self.step_variance.log(), index, fraction)
        weight = (fraction + 1) / 2
        return weight * high + (1 - weight) * low  # (B, C, h, w)

    def log_posterior_variance(self) -> torch.Tensor:
        """Log of the posterior variance; at the first step, where it is 0, the next one stands in (as in DDPM)."""
        variance = self.posterior_variance.clone()
        variance[0] = variance[1] if len(variance) > 1 else self.step_variance[0]
        return variance.log()

    def respaced(self, steps: int) -> DiscreteSchedule:
        """Shorten the schedule to fewer sampling steps, evenly spaced from the first time to the last.

        Args:
            steps: number of steps, 1 to T.

        Returns:
            a schedule of `steps` steps with the network's times as they were.
        """
        total = len(self)
        if not 1 <= steps <= total:
            raise ValueError(f"sampling steps must be 1 to {total}, got {steps}; choose e.g. 50")
        # One step must start at the noisiest time, so count down from the end. A flow's last step goes to the data
        # from 1 / steps, the others' from the first time of the schedule, as DDPM's and DiT's do.
        first = total / steps - 1 if self.prediction == "flow" else 0
        kept = torch.linspace(total - 1, first, steps).round().long().flip(0).to(self.alphas.device)
        parts = (self.alphas[kept], self.sigmas[kept], self.timesteps[kept])
        return DiscreteSchedule(*parts, self.prediction, self.levels[kept], self.learned_variance)


def _fitted(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Give values (B,) the type of `like`, (B, ...), and as many dimensions."""
    return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))  # (B, 1, ...)
