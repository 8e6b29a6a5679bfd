"""Continuous noise levels: their distribution, their equality with discrete ones, and all that reads a schedule."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler
from scipy.stats import truncnorm
from support import SIZE, options_for, run_workflow

from anatodiff.autoencoders import load_autoencoder
from anatodiff.diffusion import (
    SAMPLERS,
    ContinuousSchedule,
    DiffusionSettings,
    DiscreteSchedule,
    Guidance,
    ddim,
    ddpm,
    guided,
    normal,
)
from anatodiff.engines.membership import DRAWS, ModelMembership
from anatodiff.losses import AnatoDiffLoss, DiffusionTarget, Prediction, TopologicalWassersteinLoss
from anatodiff.networks import Adapter, Base, DiT, build_anatodiff, load_base, merged, save_base
from anatodiff.weights import WeightsError, load_weights

RIGHT_ANGLE = math.pi / 2
SETTINGS = DiffusionSettings("continuous", prediction="v")
PREDICTIONS = ("v", "epsilon")
X0 = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
CHANNELS = torch.tensor([[0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0]])
UNIFORM = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000


def continuous(prediction: str = "v", **changes: Any) -> ContinuousSchedule:
    schedule = replace(SETTINGS, prediction=prediction, **changes).build()
    assert isinstance(schedule, ContinuousSchedule)
    return schedule


def small_dit(**changes: Any) -> DiT:
    """A network whose output depends on the time."""
    torch.manual_seed(0)
    settings = {"input_size": 8, "patch_size": 2, "hidden_size": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
    network = DiT(**{**settings, **changes})
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network.eval()


def test_log_normal_levels_are_the_distribution_cut_to_the_sampled_levels() -> None:
    ratios = continuous(noise_mean=-0.5, noise_std=1.7, sigma_min=0.05, sigma_max=10.0).draw(UNIFORM).tan()
    ends = [(math.log(ratio) + 0.5) / 1.7 for ratio in (0.05, 10.0)]
    expected = torch.from_numpy(truncnorm.ppf(UNIFORM.numpy(), *ends, loc=-0.5, scale=1.7)).exp()
    torch.testing.assert_close(ratios, expected, rtol=1e-6, atol=0)


def test_uniform_levels_are_uniform_in_the_networks_time() -> None:
    schedule = continuous(noise="uniform")
    times = schedule.times(schedule.draw(UNIFORM))
    torch.testing.assert_close(times.diff(), (times[-1] - times[0]).expand(999) / 999, rtol=1e-2, atol=0)
    ends = [1000 * math.atan(ratio) / RIGHT_ANGLE for ratio in (0.02, 30.0)]
    assert [float(times[0]), float(times[-1])] == pytest.approx(ends, abs=0.5)


@pytest.mark.parametrize("noise", ["lognormal", "uniform"])
def test_no_draw_leaves_the_sampled_levels(noise: str) -> None:
    ratios = continuous(noise=noise).draw(torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tan()
    torch.testing.assert_close(ratios, torch.tensor([0.02, 30.0], dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_prediction_splits_into_image_and_noise(prediction: str) -> None:
    schedule, x0, noise = continuous(prediction), X0.double(), NOISE.double()
    index = schedule.draw(torch.tensor([0.01, 0.5, 0.99]))
    x_t = schedule.add_noise(x0, noise, index)
    found = schedule.split(x_t, schedule.target(x0, noise, index), index)
    torch.testing.assert_close(found, (x0, noise), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"topology_time": "signal"}, {"topology_until": 0.6}])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_estimate_and_loss_equal_those_of_discrete_steps_at_the_same_levels(prediction: str, options: dict) -> None:
    discrete, steps = DiffusionSettings(prediction=prediction).build(), torch.tensor([5, 300, 980])
    assert isinstance(discrete, DiscreteSchedule)
    angles = discrete.alphas[steps].acos()
    # The cut at 0.6 leaves the last image out of both: levels are shares of the steps here, of a right angle there.
    assert [int((levels <= 0.6).sum()) for levels in (discrete.levels[steps], angles / RIGHT_ANGLE)] == [2, 2]
    output = torch.cat([discrete.target(X0, NOISE, steps) + 0.2 * X0.flip(0), NOISE], dim=1)
    predicted = output[:, :4]
    found = []
    for schedule, index in ((discrete, steps), (continuous(prediction), angles)):
        noised = schedule.add_noise(X0, NOISE, index)
        topology = TopologicalWassersteinLoss(reduction="none")
        loss = AnatoDiffLoss(schedule, topology, 1.0, variance_weight=0.0, edge_weight=0.5, **options)
        total = loss(Prediction(output, noised), DiffusionTarget(X0, NOISE, index, CHANNELS))
        found.append((*schedule.split(noised, predicted, index), total, loss.parts))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
    assert found[0][3].keys() == {"mse", "topology", "edges"}
    assert min(found[0][3].values()) > 0


def test_variance_of_a_network_that_has_one_is_neither_trained_nor_used() -> None:
    schedule = continuous()
    index = schedule.draw(torch.tensor([0.1, 0.5, 0.9]))
    output = torch.cat([NOISE, X0], dim=1).requires_grad_()
    loss = AnatoDiffLoss(schedule, variance_weight=0.5)
    loss(Prediction(output, X0), DiffusionTarget(X0, NOISE, index, CHANNELS)).backward()
    assert loss.parts.keys() == {"mse"}
    assert output.grad is not None
    assert float(output.grad[:, 4:].abs().max()) == 0
    drawn = [
        ddpm(
            lambda x, t, level, f=f: torch.cat([0.1 * x, torch.full_like(x, f)], 1),
            NOISE,
            schedule.respaced(5),
            noise_of,
        )
        for f in (-1.0, 1.0)
    ]
    assert torch.equal(*drawn)


def noise_of(step: int) -> torch.Tensor:
    return normal((3, 4, 8, 8), 0, step, "noise")


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_samplers_draw_from_the_data_of_a_perfect_denoiser(name: str, prediction: str) -> None:
    schedule = continuous(prediction)

    def denoise(x: torch.Tensor, times: torch.Tensor, level: float) -> torch.Tensor:
        index = torch.full((len(x),), level * RIGHT_ANGLE, dtype=torch.float64)
        torch.testing.assert_close(times, schedule.times(index))
        alpha, sigma = schedule.shares_like(index, x)
        variance = (alpha * 0.3) ** 2 + sigma**2
        off = (x - alpha * 0.5) / variance
        return schedule.target(0.5 + alpha * 0.3**2 * off, sigma * off, index)

    start = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    noise = lambda step: normal((64, 1, 16, 16), 0, step, "noise")  # noqa: E731
    drawn = SAMPLERS[name](denoise, start, schedule.respaced(100), noise)
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.3, abs=0.02)


def test_sampling_levels_are_those_of_karras() -> None:
    short = continuous().respaced(18)
    ratios = (short.sigmas / short.alphas).flip(0)
    expected = [(30 ** (1 / 7) + k / 17 * (0.02 ** (1 / 7) - 30 ** (1 / 7))) ** 7 for k in range(18)]
    torch.testing.assert_close(ratios, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)
    torch.testing.assert_close(short.timesteps, (1000 * short.levels).float())
    assert continuous().respaced(1).sigmas.tolist() == short.sigmas[-1:].tolist()
    with pytest.raises(ValueError, match="at least 1, got 0"):
        continuous().respaced(0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"timesteps": 500}, "schedule 'continuous' has no timesteps"),
        ({"zero_terminal_snr": True}, "schedule 'continuous' has no zero_terminal_snr"),
        ({"noise": "uniform", "noise_std": 1.0}, "noise 'uniform' has no noise_std"),
        ({"schedule": "linear", "noise_mean": 0.0}, "schedule 'linear' has no noise_mean"),
        ({"schedule": "cosine", "noise": "uniform"}, "schedule 'cosine' has no noise;"),
        ({"schedule": "linear", "sigma_max": 80.0}, "schedule 'linear' has no sigma_max"),
        ({"prediction": "flow"}, "'flow' is for schedule 'flow'"),
        ({"noise": "normal"}, "noise must be one of"),
        ({"noise_mean": math.nan}, "noise_mean must be -5 to 5, got nan"),
        ({"noise_std": 0.0}, "noise_std must be 0.01 to 5"),
        ({"sigma_min": 0.0}, "sigma_min must be"),
        ({"sigma_max": math.inf}, "sigma_max must be"),
        ({"sigma_min": 1.0, "sigma_max": 1.0}, "sigma_min must be below sigma_max"),
        ({"noise_mean": 5.0, "noise_std": 0.5}, "100% of the levels outside"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_by_name(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        replace(SETTINGS, **settings)
    assert "\n" not in str(caught.value)


def test_settings_come_back_from_a_header_and_old_headers_mean_what_they_did() -> None:
    settings = replace(SETTINGS, noise_mean=-0.4, sigma_max=80.0)
    assert DiffusionSettings(**json.loads(json.dumps(asdict(settings)))) == settings
    old = {"schedule": "cosine", "timesteps": 500, "prediction": "v", "zero_terminal_snr": True}
    assert DiffusionSettings(**old) == DiffusionSettings("cosine", 500, "v", True)


def test_guidance_acts_between_levels() -> None:
    class Network(torch.nn.Module):
        def forward(self, x, timesteps, context, class_labels):  # type: ignore[no-untyped-def]
            calls.append((len(x), float(timesteps[0])))
            return 0 * x

    calls: list[tuple[int, float]] = []
    schedule = continuous().respaced(9)
    ddim(guided(Network(), torch.zeros(3), 5, Guidance(2.0, interval=[0.3, 0.6]), 4), NOISE, schedule, noise_of)
    assert {time for images, time in calls if images == 6} == {time for _, time in calls if 300 <= time <= 600}
    assert {images for images, _ in calls} == {3, 6}


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_monais_inferer_gives_the_same_samples(prediction: str) -> None:
    network = small_dit(learn_sigma=False)
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, clip_sample=False,
        prediction_type={"v": "v_prediction", "epsilon": "epsilon"}[prediction],
    )  # fmt: skip
    scheduler.alphas_cumprod = (torch.arange(1000, dtype=torch.float64) * RIGHT_ANGLE / 1000).cos() ** 2
    scheduler.set_timesteps(10)
    scheduler.timesteps = torch.arange(900, 0, -100)  # evenly: its own times are not those that its steps lead to
    schedule = continuous(prediction).at_angles(torch.arange(100, 1000, 100).double() * RIGHT_ANGLE / 1000)
    with torch.no_grad():
        theirs = DiffusionInferer(scheduler).sample(NOISE, network, scheduler, verbose=False)
        ours = ddim(lambda x, times, level: network(x, times), NOISE, schedule, noise_of)
    torch.testing.assert_close(ours, theirs.to(ours), rtol=1e-3, atol=1e-3)


def test_torchscript_gives_the_same_samples() -> None:
    network = small_dit()
    base = Base(network.requires_grad_(False), 1.0, ["a", "b", "c"], "hash", "hash", "CC0", SETTINGS)
    tuned = build_anatodiff(base, 2, torch.randn(6, 4, 8, 8), spm_width=8).eval()
    script, labels = torch.jit.script(merged(tuned)), torch.tensor([0, 1, 2])
    schedule = base.diffusion.build().respaced(4)
    with torch.no_grad():
        ours, theirs = (
            SAMPLERS["dpmpp"](lambda x, t, level, f=f: f(x, t, None, labels), NOISE, schedule, noise_of)
            for f in (tuned, script)
        )
    torch.testing.assert_close(theirs, ours)


def test_membership_by_the_network_measures_the_prediction_at_quantiles_of_the_levels(
    small_weights: dict[str, str], tmp_path: Path
) -> None:
    network = small_dit()
    adapter = Adapter(network, ["a", "b", "c"], 2.0, SETTINGS, {}, "hash")
    model = ModelMembership(adapter, load_autoencoder(small_weights["autoencoder_path"]), tmp_path)
    labels = torch.tensor([0, 1, 2])
    scores = model.scores(X0, labels)
    expected = torch.zeros(3)
    for k in range(DRAWS):
        angle = continuous().draw(torch.tensor([(k + 0.5) / DRAWS], dtype=torch.float64))
        noise = normal((4, 8, 8), 0, k, "membership noise")
        noised = angle.cos() * 2 * X0 + angle.sin() * noise
        with torch.no_grad():
            predicted = network(noised.float(), (1000 * angle / RIGHT_ANGLE).expand(3), class_labels=labels)[:, :4]
        errors = predicted - (angle.cos() * noise - angle.sin() * 2 * X0)
        expected -= errors.square().flatten(1).mean(1).float() / DRAWS
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def pretrained(
    small_images: Path, small_weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Weights with a base of continuous levels, and the options of the run that made it."""
    root = tmp_path_factory.mktemp("pretrained")
    options = options_for("pretrain", small_images, small_weights, root)
    run_workflow("pretrain", **options, schedule_name="continuous", noise_mean=-0.5, noise_std=1.0)
    return {**small_weights, "base_path": str(root / "out" / "dit.safetensors")}


def test_a_base_keeps_its_levels_and_a_fine_tune_and_its_samples_read_them(
    pretrained: dict[str, str], small_images: Path, tmp_path: Path
) -> None:
    base = load_base(pretrained["base_path"])
    assert base.diffusion == DiffusionSettings("continuous", prediction="v", noise_mean=-0.5, noise_std=1.0)
    assert base.network.input_size == SIZE // 8
    given = options_for("train", small_images, pretrained, tmp_path)
    run_workflow("train", **given, sampler="dpmpp", topology_until=0.7)
    adapter = load_weights(tmp_path / "out" / "adapter.safetensors", "adapter")
    assert adapter.settings["diffusion"] == asdict(base.diffusion)
    run_workflow(
        "inference", **options_for("inference", small_images, pretrained, tmp_path),
        run_dir=str(tmp_path / "out"), sampler="dpmpp", sampling_steps=3,
    )  # fmt: skip
    assert list((tmp_path / "generated").rglob("*.png"))


def test_options_that_contradict_the_header_are_refused_by_name(
    pretrained: dict[str, str], small_images: Path, tmp_path: Path
) -> None:
    given = options_for("train", small_images, pretrained, tmp_path)
    with pytest.raises(WeightsError, match="predicts 'v', not 'epsilon'"):
        run_workflow("train", **given, prediction="epsilon")
    for option in ("schedule_name", "noise_mean"):
        with pytest.raises(ValueError, match=option):
            run_workflow("train", **given, **{option: 1})


def test_a_run_does_not_resume_with_other_levels(
    pretrained: dict[str, str], small_images: Path, small_weights: dict[str, str]
) -> None:
    root = Path(pretrained["base_path"]).parents[1]
    options = options_for("pretrain", small_images, small_weights, root)
    with pytest.raises(ValueError, match="noise_mean"):
        run_workflow("pretrain", **options, schedule_name="continuous", noise_std=1.0)


def test_a_base_that_is_written_again_keeps_its_levels(tmp_path: Path) -> None:
    base = Base(small_dit(), 1.0, ["a", "b", "c"], "", "hash", "CC0", replace(SETTINGS, noise="uniform"))
    save_base(tmp_path / "base.safetensors", base, {})
    assert load_base(tmp_path / "base.safetensors").diffusion == base.diffusion
