from __future__ import annotations

import math

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

from anatodiff.diffusion import (
    SAMPLERS,
    NoiseSchedule,
    batch_indices,
    ddim,
    ddpm,
    generator,
    guided,
    linear_schedule,
    normal,
)
from anatodiff.losses import AnatoDiffLoss, DiffusionTarget, Prediction, TopologicalWassersteinLoss, variance_bound

SCHEDULE = linear_schedule()
X0 = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
INDEX = torch.tensor([0, 400, 999])
CHANNEL = torch.tensor([0, 1, 3])


def test_schedule_equals_monais() -> None:
    monai = DDPMScheduler(num_train_timesteps=1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)
    torch.testing.assert_close(SCHEDULE.alphas_bar.float(), monai.alphas_cumprod, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        SCHEDULE.add_noise(X0, NOISE, INDEX), monai.add_noise(X0, NOISE, INDEX), rtol=1e-4, atol=1e-4
    )


def test_estimate_inverts_the_noising() -> None:
    x_t = SCHEDULE.add_noise(X0.double(), NOISE.double(), INDEX)
    torch.testing.assert_close(SCHEDULE.estimate_x0(x_t, NOISE.double(), INDEX), X0.double(), rtol=1e-9, atol=1e-9)


def test_a_schedule_that_does_not_fall_is_refused() -> None:
    with pytest.raises(ValueError, match="fall strictly"):
        NoiseSchedule(torch.tensor([0.9, 0.95]))


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_respaced_schedule_keeps_first_and_last_time(steps: int) -> None:
    short = SCHEDULE.respaced(steps)
    assert len(short) == steps
    assert short.timesteps[-1] == 999
    assert steps == 1 or short.timesteps[0] == 0
    assert torch.equal(short.alphas_bar, SCHEDULE.alphas_bar[short.timesteps])


@pytest.mark.parametrize("steps", [0, 1001])
def test_too_many_or_no_steps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="1 to 1000"):
        SCHEDULE.respaced(steps)


def gaussian_denoiser(mean: float, deviation: float):  # type: ignore[no-untyped-def]
    """The perfect noise prediction for data that is N(mean, deviation^2) in each value."""

    def denoise(x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        abar = SCHEDULE.at(SCHEDULE.alphas_bar, times, x)
        variance = abar * deviation**2 + 1 - abar
        return (1 - abar).sqrt() * (x - abar.sqrt() * mean) / variance

    return denoise


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_samplers_draw_from_the_data_of_a_perfect_denoiser(name: str) -> None:
    start = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    noise = lambda step: normal((64, 1, 16, 16), 0, step, "noise")  # noqa: E731
    drawn = SAMPLERS[name](gaussian_denoiser(0.5, 0.3), start, SCHEDULE.respaced(250), noise)
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.3, abs=0.02)


def test_ddim_equals_monais_step_for_step() -> None:
    monai = DDIMScheduler(num_train_timesteps=1000, clip_sample=False)
    monai.set_timesteps(1000)
    x = expected = NOISE
    short = SCHEDULE  # every step, so that both walk the same times
    denoise = gaussian_denoiser(0.2, 0.5)
    for time in monai.timesteps[:5]:
        expected, _ = monai.step(denoise(expected, torch.full((3,), int(time))), int(time), expected)
    for step in range(999, 994, -1):
        index = torch.full((3,), step)
        eps = denoise(x, index)
        x = short.add_noise(short.estimate_x0(x, eps, index), eps, index - 1)
    torch.testing.assert_close(x, expected, rtol=1e-3, atol=1e-3)


def test_ddpm_uses_the_learned_variance() -> None:
    def with_fraction(fraction: float):  # type: ignore[no-untyped-def]
        plain = gaussian_denoiser(0, 1)
        return lambda x, t: torch.cat([plain(x, t), torch.full_like(x, fraction)], dim=1)

    noise = lambda step: normal((3, 4, 8, 8), 0, step, "noise")  # noqa: E731
    short = SCHEDULE.respaced(10)
    wide, narrow = (ddpm(with_fraction(f), NOISE, short, noise) for f in (1.0, -1.0))
    assert wide.std() > 1.1 * narrow.std()


def test_guidance_moves_away_from_the_unconditional_output() -> None:
    class Network(torch.nn.Module):
        def forward(self, x, timesteps, class_labels):  # type: ignore[no-untyped-def]
            level = class_labels.float().reshape(-1, 1, 1, 1).expand_as(x)
            return torch.cat([level, 10 * level], dim=1)

    labels = torch.tensor([0, 1, 2])
    for scale, expected in ((1.0, [0, 1, 2]), (0.0, [5, 5, 5]), (3.0, [-10, -7, -4])):
        out = guided(Network(), labels, 5, scale, 4)(X0, INDEX)
        assert out[:, 0, 0, 0].tolist() == expected
        assert out[:, 4, 0, 0].tolist() == [0, 10, 20]  # the variance is the labelled one's


def test_draws_depend_on_seed_step_and_name_only() -> None:
    first = normal((100,), 1, 2, "noise")
    torch.manual_seed(99)
    assert torch.equal(first, normal((100,), 1, 2, "noise"))
    for other in ((2, 2, "noise"), (1, 3, "noise"), (1, 2, "time")):
        assert abs(float(torch.corrcoef(torch.stack([first, normal((100,), *other)]))[0, 1])) < 0.4
    assert generator(1, 12, "x").initial_seed() != generator(11, 2, "x").initial_seed()


@pytest.mark.parametrize("batch_size", [1, 4, 7, 25])
def test_each_pass_shows_each_image_once(batch_size: int) -> None:
    n = 10
    drawn = torch.cat([batch_indices(n, batch_size, 0, step) for step in range(math.ceil(30 / batch_size))])[:30]
    for part in drawn.split(n):
        assert sorted(part.tolist()) == list(range(n))
    assert drawn[:10].tolist() != drawn[10:20].tolist()


def target(index: torch.Tensor = INDEX) -> DiffusionTarget:
    return DiffusionTarget(X0, NOISE, index, CHANNEL)


def predict(output: torch.Tensor, index: torch.Tensor = INDEX) -> Prediction:
    return Prediction(output, SCHEDULE.add_noise(X0, NOISE, index))


def test_perfect_noise_has_no_loss_but_the_variance_term() -> None:
    loss = AnatoDiffLoss(SCHEDULE, TopologicalWassersteinLoss(), topology_weight=1.0, variance_weight=0.0)
    index = torch.tensor([0, 100, 300])
    assert float(loss(predict(NOISE, index), target(index))) == pytest.approx(0, abs=1e-2)


def test_loss_is_the_weighted_sum_of_its_terms() -> None:
    output = torch.cat([NOISE + 0.1, 0.3 * X0], dim=1)
    loss = AnatoDiffLoss(SCHEDULE, TopologicalWassersteinLoss(), topology_weight=1e-3, variance_weight=0.5)
    value = float(loss(predict(output), target()))
    assert set(loss.parts) == {"mse", "variance", "topology"}
    assert loss.parts["mse"] == pytest.approx(0.01, rel=1e-4)
    weighted = loss.parts["mse"] + 0.5 * loss.parts["variance"] + 1e-3 * loss.parts["topology"]
    assert value == pytest.approx(weighted, rel=1e-5)


def test_topology_compares_the_drawn_channel_of_the_one_step_estimate() -> None:
    topology = TopologicalWassersteinLoss()
    loss = AnatoDiffLoss(SCHEDULE, topology, topology_weight=1.0, variance_weight=0.0)
    index, noise = torch.tensor([10, 200, 500]), NOISE + 0.2 * X0
    prediction = predict(noise, index)
    loss(prediction, target(index))
    estimate = SCHEDULE.estimate_x0(prediction.noised, noise, index)
    assert loss.parts["topology"] == pytest.approx(float(topology(estimate, X0, channel=CHANNEL)), rel=1e-6)


def test_variance_term_trains_the_variance_alone() -> None:
    output = torch.cat([NOISE + 0.1, 0.3 * X0], dim=1).requires_grad_()
    variance_bound(SCHEDULE, predict(output), target()).sum().backward()
    assert output.grad is not None
    assert float(output.grad[:, :4].abs().max()) == 0
    assert float(output.grad[:, 4:].abs().min()) > 0


def test_variance_bound_is_the_gaussian_divergence() -> None:
    index = torch.tensor([5, 400, 999])
    fraction = torch.full_like(X0, 0.2)
    output = torch.cat([NOISE + 0.1, fraction], dim=1)
    prediction = predict(output, index)
    mean = SCHEDULE.posterior_mean(
        prediction.noised, SCHEDULE.estimate_x0(prediction.noised, NOISE + 0.1, index), index
    )
    true_mean = SCHEDULE.posterior_mean(prediction.noised, X0, index)
    p = torch.distributions.Normal(mean, (0.5 * SCHEDULE.log_variance(fraction, index)).exp())
    posterior = SCHEDULE.at(SCHEDULE.posterior_variance, index, X0).sqrt()
    q = torch.distributions.Normal(true_mean, posterior.expand_as(true_mean))
    expected = torch.distributions.kl_divergence(q, p).flatten(1).mean(1) / math.log(2)
    torch.testing.assert_close(variance_bound(SCHEDULE, prediction, target(index)), expected, rtol=1e-3, atol=1e-5)


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        AnatoDiffLoss(SCHEDULE, topology_weight=-1)


def test_ddim_needs_no_noise() -> None:
    def none(step: int) -> torch.Tensor:
        raise AssertionError("ddim drew noise")

    assert torch.isfinite(ddim(gaussian_denoiser(0, 1), NOISE, SCHEDULE.respaced(4), none)).all()
