"""DPM-Solver++: the steps of diffusers' implementation, and the second order that its authors prove."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from anatodiff.diffusion import DiffusionSettings, DiscreteSchedule, ddim, dpmpp

KINDS = {
    "linear": DiffusionSettings(),
    "cosine v": DiffusionSettings("cosine", prediction="v"),
    "flow": DiffusionSettings("flow", prediction="flow"),
    "continuous": DiffusionSettings("continuous", prediction="v"),
    "continuous epsilon": DiffusionSettings("continuous", prediction="epsilon"),
}
THEIRS = {"epsilon": "epsilon", "v": "v_prediction", "flow": "flow_prediction"}
START = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def no_noise(step: int) -> torch.Tensor:
    raise AssertionError("a sampler without noise on the way drew some")


def curved(x: torch.Tensor, times: torch.Tensor, level: float) -> torch.Tensor:
    """A network that is linear in nothing."""
    return 0.5 * torch.sin(x + 3 * level)


def by_diffusers(schedule: DiscreteSchedule) -> torch.Tensor:
    """Sample the curved network at the schedule's levels with diffusers' solver."""
    flow = schedule.prediction == "flow"
    solver = DPMSolverMultistepScheduler(prediction_type=THEIRS[schedule.prediction], use_flow_sigmas=flow)
    solver.set_timesteps(len(schedule))
    # Its sigma is the ratio of noise to signal, a flow's the share of noise.
    ratios = schedule.sigmas if flow else schedule.sigmas / schedule.alphas
    solver.sigmas = torch.cat([ratios.flip(0), torch.zeros(1)]).float()
    solver.timesteps = torch.arange(len(schedule)).flip(0)
    x = START
    for step in solver.timesteps:
        output = curved(x, step, float(schedule.levels[step]))
        x = solver.step(-output if flow else output, step, x).prev_sample  # their flow points to the noise
    return x


@pytest.mark.parametrize("steps", [1, 2, 5, 18])
@pytest.mark.parametrize("kind", list(KINDS))
def test_dpmpp_equals_diffusers(kind: str, steps: int) -> None:
    schedule = KINDS[kind].build().respaced(steps)
    drawn = dpmpp(curved, START, schedule, no_noise)
    torch.testing.assert_close(drawn, by_diffusers(schedule), rtol=1e-4, atol=1e-4)


def test_dpmpp_starts_from_noise_alone_with_a_step_of_ddims() -> None:
    schedule = DiffusionSettings("linear", prediction="v", zero_terminal_snr=True).build().respaced(3)
    x, index = START.double(), torch.full((2,), 2)
    first, noise = schedule.split(x, curved(x, index, 1.0), index)
    x = schedule.add_noise(first, noise, index - 1)
    # The first step is infinitely long in lambda, so that the second one extrapolates nothing.
    second, noise = schedule.split(x, curved(x, index, float(schedule.levels[1])), index - 1)
    x = schedule.add_noise(second, noise, index - 2)
    last, _ = schedule.split(x, curved(x, index, float(schedule.levels[0])), index - 2)
    torch.testing.assert_close(dpmpp(curved, START.double(), schedule, no_noise), last)


def errors(sampler: Callable[..., torch.Tensor], kind: str, deviation: float = 0.3) -> list[float]:
    """Errors with 20, 40 and 80 steps on Gaussian data, whose perfect prediction and whose paths are known."""
    found = []
    for steps in (20, 40, 80):
        schedule = KINDS[kind].build().respaced(steps)

        def denoise(
            x: torch.Tensor, times: torch.Tensor, level: float, at: DiscreteSchedule = schedule
        ) -> torch.Tensor:
            index = (at.levels - level).abs().argmin().expand(len(x))
            alpha, sigma = at.shares_like(index, x)
            variance = (alpha * deviation) ** 2 + sigma**2
            return at.target(alpha * deviation**2 * x / variance, sigma * x / variance, index)

        spread = ((schedule.alphas * deviation) ** 2 + schedule.sigmas**2).sqrt()  # of the noised data, (T,)
        # Along a path x stays in proportion to the spread; the last step goes to the mean of x_0 there.
        last = float(schedule.alphas[0] * deviation**2 / spread[0] / spread[-1])
        x = sampler(denoise, START.double(), schedule, no_noise)
        found.append(float((x - last * START.double()).norm()))
    return found


@pytest.mark.parametrize("kind", ["continuous", "continuous epsilon"])
def test_dpmpp_is_of_second_order_and_ddim_of_first(kind: str) -> None:
    second, first = errors(dpmpp, kind), errors(ddim, kind)
    for order, found in ((2, second), (1, first)):
        for coarse, fine in itertools.pairwise(found):
            assert math.log2(coarse / fine) == pytest.approx(order, abs=0.35)
    assert second[0] < first[2]  # 20 steps of the one are nearer than 80 of the other
