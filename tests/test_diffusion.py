from __future__ import annotations

import itertools
import math

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

from anatodiff.diffusion import (
    SAMPLERS,
    DiffusionSettings,
    DiscreteSchedule,
    Guidance,
    NoiseSchedule,
    batch_indices,
    ddim,
    ddpm,
    generator,
    guided,
    normal,
)
from anatodiff.losses import AnatoDiffLoss, DiffusionTarget, Prediction, TopologicalWassersteinLoss, variance_bound

SCHEDULE = DiffusionSettings().build()
KINDS = {
    "linear": DiffusionSettings(),
    "v": DiffusionSettings("linear", prediction="v"),
    "cosine v": DiffusionSettings("cosine", prediction="v"),
    "zero terminal": DiffusionSettings("linear", prediction="v", zero_terminal_snr=True),
    "flow": DiffusionSettings("flow", prediction="flow"),
}
X0 = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
INDEX = torch.tensor([0, 400, 999])
CHANNELS = torch.tensor([[0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0]])


def test_schedule_equals_monais() -> None:
    monai = DDPMScheduler(num_train_timesteps=1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)
    torch.testing.assert_close(SCHEDULE.alphas.square().float(), monai.alphas_cumprod, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        SCHEDULE.add_noise(X0, NOISE, INDEX), monai.add_noise(X0, NOISE, INDEX), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_perfect_prediction_splits_into_image_and_noise(kind: str) -> None:
    schedule, x0, noise = KINDS[kind].build(), X0.double(), NOISE.double()
    x_t = schedule.add_noise(x0, noise, INDEX)
    x0_again, noise_again = schedule.split(x_t, schedule.target(x0, noise, INDEX), INDEX)
    torch.testing.assert_close(x0_again, x0, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(noise_again, noise, rtol=1e-7, atol=1e-7)


def test_targets_are_those_of_their_papers() -> None:
    index = torch.tensor([10, 500, 900])
    v, flow = KINDS["v"].build(), KINDS["flow"].build()
    monai = DDPMScheduler(num_train_timesteps=1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)
    torch.testing.assert_close(v.target(X0, NOISE, index), monai.get_velocity(X0, NOISE, index), rtol=1e-4, atol=1e-4)
    # A flow goes straight: what it predicts is the slope in the time that the network is told.
    step = flow.add_noise(X0, NOISE, index) - flow.add_noise(X0, NOISE, index + 1)
    torch.testing.assert_close(1000 * step, flow.target(X0, NOISE, index), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(flow.timesteps[index], 1 - (index + 1) / 1000)


def test_cosine_schedule_is_nichol_and_dhariwals() -> None:
    abar = KINDS["cosine v"].build().alphas.square()
    f = lambda t: math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    for index in (0, 300, 900):
        assert float(abar[index]) == pytest.approx(f(index + 1) / f(0), rel=1e-9)
    assert float(1 - abar[-1] / abar[-2]) == pytest.approx(0.999)


def test_zero_terminal_schedule_ends_in_noise_alone_and_starts_where_it_did() -> None:
    plain, zero = KINDS["v"].build(), KINDS["zero terminal"].build()
    assert float(zero.alphas[-1]) == 0
    assert float(plain.alphas[-1]) > 1e-3
    assert float(zero.alphas[0]) == pytest.approx(float(plain.alphas[0]), rel=1e-12)
    torch.testing.assert_close(zero.add_noise(X0, NOISE, torch.tensor([999] * 3)), NOISE)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"zero_terminal_snr": True}, "prediction 'v'"),
        ({"schedule": "flow"}, "do not go together"),
        ({"prediction": "flow"}, "do not go together"),
        ({"schedule": "flow", "prediction": "flow", "zero_terminal_snr": True}, "leave zero_terminal_snr out"),
        ({"schedule": "cosine"}, "use prediction 'v'"),
        ({"schedule": "square"}, "'square'"),
        ({"prediction": "x0"}, "'x0'"),
        ({"timesteps": 20}, "at least 21"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DiffusionSettings(**settings).build()


def test_a_schedule_that_does_not_fall_is_refused() -> None:
    with pytest.raises(ValueError, match="rise strictly"):
        DiscreteSchedule(torch.tensor([0.9, 0.95]), torch.tensor([0.3, 0.2]), torch.arange(2))


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_respaced_schedule_keeps_first_and_last_time(steps: int) -> None:
    short = SCHEDULE.respaced(steps)
    assert len(short) == steps
    assert short.timesteps[-1] == 999
    assert steps == 1 or short.timesteps[0] == 0
    assert torch.equal(short.alphas.square(), SCHEDULE.alphas.square()[short.timesteps])
    assert float(short.levels[-1]) == 1


def test_a_flow_is_shortened_evenly() -> None:
    torch.testing.assert_close(KINDS["flow"].build().respaced(4).sigmas.float(), torch.tensor([0.25, 0.5, 0.75, 1.0]))


@pytest.mark.parametrize("steps", [0, 1001])
def test_too_many_or_no_steps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="1 to 1000"):
        SCHEDULE.respaced(steps)


def gaussian_denoiser(mean: float, deviation: float, schedule: NoiseSchedule = SCHEDULE):  # type: ignore[no-untyped-def]
    """The perfect prediction for data that is N(mean, deviation^2) in each value."""
    size = len(schedule)

    def denoise(x: torch.Tensor, times: torch.Tensor, level: float) -> torch.Tensor:
        index = torch.full((len(x),), round(level * size) - 1)
        alpha, sigma = schedule.at(schedule.alphas, index, x), schedule.at(schedule.sigmas, index, x)
        variance = (alpha * deviation) ** 2 + sigma**2
        eps = sigma * (x - alpha * mean) / variance
        x0 = mean + alpha * deviation**2 * (x - alpha * mean) / variance
        return schedule.target(x0, eps, index)

    return denoise


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_samplers_draw_from_the_data_of_a_perfect_denoiser(name: str, kind: str) -> None:
    schedule = KINDS[kind].build()
    start = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    noise = lambda step: normal((64, 1, 16, 16), 0, step, "noise")  # noqa: E731
    drawn = SAMPLERS[name](gaussian_denoiser(0.5, 0.3, schedule), start, schedule.respaced(250), noise)
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.3, abs=0.02)


def test_ddim_equals_monais_step_for_step() -> None:
    monai = DDIMScheduler(num_train_timesteps=1000, clip_sample=False)
    monai.set_timesteps(1000)
    x = expected = NOISE
    denoise = gaussian_denoiser(0.2, 0.5)  # every step of the schedule, so that both walk the same times
    for time in monai.timesteps[:5]:
        level = (int(time) + 1) / 1000
        expected, _ = monai.step(denoise(expected, torch.full((3,), int(time)), level), int(time), expected)
    for step in range(999, 994, -1):
        index = torch.full((3,), step)
        x0, eps = SCHEDULE.split(x, denoise(x, index, (step + 1) / 1000), index)
        x = SCHEDULE.add_noise(x0, eps, index - 1)
    torch.testing.assert_close(x, expected, rtol=1e-3, atol=1e-3)


def test_ddim_on_a_flow_is_eulers_method() -> None:
    schedule = KINDS["flow"].build().respaced(4)
    curved = lambda x, times, level: torch.sin(x) + times.to(x.dtype).reshape(-1, 1, 1, 1)  # noqa: E731
    x = NOISE.double()
    levels = [*schedule.levels.flip(0).tolist(), 0.0]
    for now, later in itertools.pairwise(levels):
        x = x + (now - later) * curved(x, torch.full((3,), 1 - now, dtype=torch.float32), now)
    drawn = ddim(curved, NOISE.double(), schedule, lambda step: NOISE)
    torch.testing.assert_close(drawn, x, rtol=1e-6, atol=1e-6)


def test_ddpm_uses_the_learned_variance_but_not_a_flows() -> None:
    def with_fraction(fraction: float, schedule: NoiseSchedule):  # type: ignore[no-untyped-def]
        plain = gaussian_denoiser(0, 1, schedule)
        return lambda x, t, level: torch.cat([plain(x, t, level), torch.full_like(x, fraction)], dim=1)

    noise = lambda step: normal((3, 4, 8, 8), 0, step, "noise")  # noqa: E731
    for kind, ratio in (("linear", 1.1), ("flow", None)):
        schedule = KINDS[kind].build()
        short = schedule.respaced(10)
        wide, narrow = (ddpm(with_fraction(f, schedule), NOISE, short, noise) for f in (1.0, -1.0))
        assert torch.equal(wide, narrow) if ratio is None else wide.std() > ratio * narrow.std()


def test_guidance_moves_away_from_the_unconditional_output() -> None:
    class Network(torch.nn.Module):
        def forward(self, x, timesteps, context, class_labels):  # type: ignore[no-untyped-def]
            level = class_labels.float().reshape(-1, 1, 1, 1).expand_as(x)
            return torch.cat([level, 10 * level], dim=1)

    labels = torch.tensor([0, 1, 2])

    def out(guidance: Guidance, level: float = 0.5) -> torch.Tensor:
        return guided(Network(), labels, 5, guidance, 4)(X0, INDEX, level)

    for scale, expected in ((1.0, [0, 1, 2]), (0.0, [5, 5, 5]), (3.0, [-10, -7, -4])):
        assert out(Guidance(scale))[:, 0, 0, 0].tolist() == expected
        assert out(Guidance(scale))[:, 4, 0, 0].tolist() == [0, 10, 20]  # the variance is the labelled one's
    only = out(Guidance(3.0, channels=[1, 2]))
    assert only[:, :4, 0, 0].tolist() == [[0, -10, -10, 0], [1, -7, -7, 1], [2, -4, -4, 2]]
    inside = Guidance(3.0, interval=[0.2, 0.6])
    assert [out(inside, level)[0, 0, 0, 0].item() for level in (0.1, 0.2, 0.6, 0.7)] == [0, -10, -10, 0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"scale": -1}, "negative"), ({"interval": [0.5, 0.2]}, "rising"), ({"channels": []}, "guidance_channels")],
)
def test_wrong_guidance_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Guidance(**settings)


def test_guidance_of_a_channel_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.3"):
        guided(torch.nn.Identity(), torch.tensor([0]), 1, Guidance(2.0, channels=[4]), 4)


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
    return DiffusionTarget(X0, NOISE, index, CHANNELS)


def predict(output: torch.Tensor, index: torch.Tensor = INDEX, schedule: NoiseSchedule = SCHEDULE) -> Prediction:
    return Prediction(output, schedule.add_noise(X0, NOISE, index))


def topology(**settings: object) -> TopologicalWassersteinLoss:
    return TopologicalWassersteinLoss(reduction="none", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_perfect_prediction_has_no_loss(kind: str) -> None:
    schedule = KINDS[kind].build()
    loss = AnatoDiffLoss(schedule, topology(), topology_weight=1.0, variance_weight=0.0)
    index = torch.tensor([0, 100, 300])
    said = schedule.target(X0, NOISE, index)
    assert float(loss(predict(said, index, schedule), target(index))) == pytest.approx(0, abs=1e-2)
    assert float(loss(predict(said + 0.5, index, schedule), target(index))) > 0.2


def test_loss_is_the_weighted_sum_of_its_terms() -> None:
    output = torch.cat([NOISE + 0.1, 0.3 * X0], dim=1)
    loss = AnatoDiffLoss(SCHEDULE, topology(), topology_weight=1e-3, variance_weight=0.5)
    value = float(loss(predict(output), target()))
    assert set(loss.parts) == {"mse", "variance", "topology"}
    assert loss.parts["mse"] == pytest.approx(0.01, rel=1e-4)
    weighted = loss.parts["mse"] + 0.5 * loss.parts["variance"] + 1e-3 * loss.parts["topology"]
    assert value == pytest.approx(weighted, rel=1e-5)


def test_a_flow_trains_no_variance() -> None:
    loss = AnatoDiffLoss(KINDS["flow"].build(), variance_weight=0.5)
    loss(predict(torch.cat([NOISE, X0], dim=1)), target())
    assert set(loss.parts) == {"mse"}


TIMES, OFF = torch.tensor([10, 200, 500]), NOISE + 0.2 * X0


def distances(of: TopologicalWassersteinLoss, channel: torch.Tensor | None) -> torch.Tensor:
    """The topological distance of each image's one-step estimate, taken directly."""
    estimate, _ = SCHEDULE.split(predict(OFF, TIMES).noised, OFF, TIMES)
    return of(estimate, X0, channel=channel)


def anatomical(of: TopologicalWassersteinLoss, **settings: object) -> float:
    loss = AnatoDiffLoss(SCHEDULE, of, topology_weight=1.0, variance_weight=0.0, **settings)  # type: ignore[arg-type]
    loss(predict(OFF, TIMES), target(TIMES))
    return loss.parts["topology"]


@pytest.mark.parametrize("n_random", [1, 3])
def test_topology_compares_the_drawn_channels_of_the_one_step_estimate(n_random: int) -> None:
    of = topology(n_random=n_random)
    assert anatomical(of) == pytest.approx(float(distances(of, CHANNELS[:, :n_random]).mean()), rel=1e-5)


@pytest.mark.parametrize("channels", ["all", "mean", 2])
def test_topology_compares_the_named_channels(channels: str | int) -> None:
    of = topology(channels=channels)
    assert anatomical(of) == pytest.approx(float(distances(of, None).mean()), rel=1e-5)


def test_topology_can_be_weighted_and_cut_by_time() -> None:
    each = distances(topology(), CHANNELS[:, :1]).double()
    weighted = float((SCHEDULE.alphas[TIMES] * each).mean())
    assert anatomical(topology(), topology_time="signal") == pytest.approx(weighted, rel=1e-5)
    assert anatomical(topology(), topology_until=0.3) == pytest.approx(float(each[:2].sum()) / 3, rel=1e-5)
    assert anatomical(topology(), topology_until=0.001) == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"topology_weight": -1}, "negative"),
        ({"topology_time": "late"}, "'late'"),
        ({"topology_until": 0}, "above 0"),
        ({"topology": TopologicalWassersteinLoss()}, "reduction 'none'"),
    ],
)
def test_wrong_loss_options_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AnatoDiffLoss(SCHEDULE, **settings)


def test_variance_term_trains_the_variance_alone() -> None:
    output = torch.cat([NOISE + 0.1, 0.3 * X0], dim=1).requires_grad_()
    variance_bound(SCHEDULE, predict(output), target()).sum().backward()
    assert output.grad is not None
    assert float(output.grad[:, :4].abs().max()) == 0
    assert float(output.grad[:, 4:].abs().min()) > 0


@pytest.mark.parametrize("kind", ["linear", "cosine v"])
def test_variance_bound_is_the_gaussian_divergence(kind: str) -> None:
    schedule, index = KINDS[kind].build(), torch.tensor([5, 400, 990])
    fraction, said = torch.full_like(X0, 0.2), schedule.target(X0, NOISE, index) + 0.1
    prediction = predict(torch.cat([said, fraction], dim=1), index, schedule)
    estimate, _ = schedule.split(prediction.noised, said, index)
    mean, true_mean = (schedule.posterior_mean(prediction.noised, x0, index) for x0 in (estimate, X0))
    p = torch.distributions.Normal(mean, (0.5 * schedule.log_variance(fraction, index)).exp())
    posterior = schedule.at(schedule.posterior_variance, index, X0).sqrt()
    q = torch.distributions.Normal(true_mean, posterior.expand_as(true_mean))
    expected = torch.distributions.kl_divergence(q, p).flatten(1).mean(1) / math.log(2)
    torch.testing.assert_close(variance_bound(schedule, prediction, target(index)), expected, rtol=1e-3, atol=1e-5)


def test_ddim_needs_no_noise() -> None:
    def none(step: int) -> torch.Tensor:
        raise AssertionError("ddim drew noise")

    assert torch.isfinite(ddim(gaussian_denoiser(0, 1), NOISE, SCHEDULE.respaced(4), none)).all()
