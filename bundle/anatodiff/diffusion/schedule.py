"""The noise schedule and what follows from it in closed form."""

from __future__ import annotations

import torch
from torch import nn

REFERENCE_STEPS = 1000  # the number of steps that the usual betas are meant for


class NoiseSchedule(nn.Module):
    """A discrete noise schedule: q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I), AnatoDiff eq. 1-2.

    Args:
        alphas_bar: (T,) cumulative products of 1 - beta, float64, falling, in (0, 1).
        timesteps: (T,) the time that the network is told at each of them; None: 0 .. T-1.

    References:
        Ho et al., https://arxiv.org/abs/2006.11239; Nichol and Dhariwal, https://arxiv.org/abs/2102.09672
    """

    alphas_bar: torch.Tensor
    alphas_bar_previous: torch.Tensor
    betas: torch.Tensor
    posterior_variance: torch.Tensor
    timesteps: torch.Tensor

    def __init__(self, alphas_bar: torch.Tensor, timesteps: torch.Tensor | None = None) -> None:
        super().__init__()
        alphas_bar = alphas_bar.double()
        previous = torch.cat([torch.ones(1, dtype=torch.float64), alphas_bar[:-1]])
        if not bool(((alphas_bar > 0) & (alphas_bar < previous)).all()):
            raise ValueError("alphas_bar must fall strictly inside (0, 1); check the schedule's betas")
        betas = 1 - alphas_bar / previous
        self.register_buffer("alphas_bar", alphas_bar)
        self.register_buffer("alphas_bar_previous", previous)
        self.register_buffer("betas", betas)
        self.register_buffer("posterior_variance", betas * (1 - previous) / (1 - alphas_bar))
        self.register_buffer("timesteps", torch.arange(len(alphas_bar)) if timesteps is None else timesteps)

    def __len__(self) -> int:
        return len(self.alphas_bar)

    def at(self, values: torch.Tensor, index: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Pick schedule values for a batch, ready to multiply images.

        Args:
            values: (T,) a buffer of this schedule.
            index: (B,) positions in the schedule.
            like: (B, ...) tensor whose dimensions and type the result fits.

        Returns:
            (B, 1, ...) values.
        """
        return values[index].to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))

    def add_noise(self, x0: torch.Tensor, noise: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Noise clean latents: x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps (inside AnatoDiff eq. 5).

        Args:
            x0: (B, C, h, w) clean, scaled latents.
            noise: (B, C, h, w) standard normal.
            index: (B,) positions in the schedule.

        Returns:
            (B, C, h, w) noised latents.
        """
        signal = self.at(self.alphas_bar.sqrt(), index, x0)
        return signal * x0 + self.at((1 - self.alphas_bar).sqrt(), index, x0) * noise  # (B, C, h, w)

    def estimate_x0(self, x_t: torch.Tensor, noise: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Estimate the clean latents in one step: x_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar).

        Args:
            x_t: (B, C, h, w) noised latents.
            noise: (B, C, h, w) predicted noise.
            index: (B,) positions in the schedule.

        Returns:
            (B, C, h, w) estimate of x_0.
        """
        remove = self.at((1 - self.alphas_bar).sqrt(), index, x_t)
        return (x_t - remove * noise) / self.at(self.alphas_bar.sqrt(), index, x_t)  # (B, C, h, w)

    def posterior_mean(self, x_t: torch.Tensor, x0: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Mean of q(x_{t-1} | x_t, x_0) (Ho et al. eq. 7).

        Args:
            x_t: (B, C, h, w) noised latents.
            x0: (B, C, h, w) clean latents or their estimate.
            index: (B,) positions in the schedule.

        Returns:
            (B, C, h, w) mean.
        """
        before = self.alphas_bar_previous
        of_x0 = self.at(before.sqrt() * self.betas / (1 - self.alphas_bar), index, x_t)
        of_xt = self.at((1 - self.betas).sqrt() * (1 - before) / (1 - self.alphas_bar), index, x_t)
        return of_x0 * x0 + of_xt * x_t  # (B, C, h, w)

    def log_variance(self, fraction: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Learned log-variance between the two bounds (Nichol and Dhariwal eq. 15).

        Args:
            fraction: (B, C, h, w) network output; -1 is the posterior's variance, 1 is beta.
            index: (B,) positions in the schedule.

        Returns:
            (B, C, h, w) log-variance of p(x_{t-1} | x_t).
        """
        low = self.at(self.log_posterior_variance(), index, fraction)
        high = self.at(self.betas.log(), index, fraction)
        weight = (fraction + 1) / 2
        return weight * high + (1 - weight) * low  # (B, C, h, w)

    def log_posterior_variance(self) -> torch.Tensor:
        """Log of the posterior variance; at t = 0, where it is 0, the next one stands in (as Nichol and Dhariwal)."""
        variance = self.posterior_variance.clone()
        variance[0] = variance[1] if len(variance) > 1 else self.betas[0]
        return variance.log()

    def respaced(self, steps: int) -> NoiseSchedule:
        """Shorten the schedule to fewer sampling steps, evenly spaced from the first time to the last.

        Args:
            steps: number of steps, 1 to T.

        Returns:
            a schedule of `steps` steps that still tells the network the original times.
        """
        total = len(self)
        if not 1 <= steps <= total:
            raise ValueError(f"sampling steps must be 1 to {total}, got {steps}; choose e.g. 50")
        # One step must start at the noisiest time, so count down from the end.
        kept = torch.linspace(total - 1, 0, steps).round().long().flip(0)
        return NoiseSchedule(self.alphas_bar[kept].cpu(), self.timesteps[kept].cpu()).to(self.alphas_bar.device)


def linear_schedule(timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
    """Build the linear schedule of DDPM and DiT; the betas grow with 1000 / T, so that it always ends in pure noise.

    Args:
        timesteps: number of steps T, at least 21.
        beta_start: first noise variance at T = 1000.
        beta_end: last noise variance at T = 1000.

    Returns:
        the schedule.
    """
    scale = REFERENCE_STEPS / timesteps
    if not 0 < scale * beta_end < 1:
        least = int(REFERENCE_STEPS * beta_end) + 1
        raise ValueError(f"timesteps must be at least {least}, got {timesteps}; 1000 is usual")
    betas = scale * torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
    return NoiseSchedule((1 - betas).cumprod(0))
