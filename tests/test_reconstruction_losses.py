"""What the autoencoder is trained by: pixels, a perceptual network, and a critic beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from ignite.engine import Engine
from monai.utils import CommonKeys
from safetensors.torch import load_file
from support import make_vgg

from anatodiff.autoencoders import PrincipalAutoencoder
from anatodiff.engines import CriticTraining, DamagedBatch, DamagedInferer, build_critic
from anatodiff.losses import PerceptualLoss, ReconstructionLoss
from anatodiff.losses.texture import alternation, gram_matrices
from anatodiff.weights import WeightsError

VGG = "vgg19_features_conv1_1-conv3_4_fp16.pth"


def prediction(image: torch.Tensor) -> dict[str, torch.Tensor]:
    latent = torch.zeros(len(image), 4, 1, 1)
    return {"reconstruction": image, "mean": latent, "logvar": latent}


@pytest.mark.parametrize(("norm", "expected"), [(1, 0.1), (2, 0.01)])
def test_norm_of_the_pixels(norm: int, expected: float) -> None:
    target = torch.rand(2, 1, 8, 8)
    assert float(ReconstructionLoss(norm=norm)(prediction(target + 0.1), target)) == pytest.approx(expected, rel=1e-4)


def test_another_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="pixel_norm is 3"):
        ReconstructionLoss(norm=3)


def test_perceptual_maps_equal_plain_vgg(tmp_path: Path) -> None:
    """Layer by layer as in the paper, on BGR of 0 to 255 less the mean of ImageNet."""
    path = make_vgg(tmp_path, seed=0)
    tensors = torch.load(path, weights_only=True)
    image = torch.rand(1, 1, 16, 16)
    x = 255 * image.repeat(1, 3, 1, 1) - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    expected = []
    for place in (0, 2, 5, 7):
        if place == 5:
            x = torch.nn.functional.max_pool2d(x, 2)
        x = torch.relu(torch.conv2d(x, tensors[f"{place}.weight"], tensors[f"{place}.bias"], padding=1))
        expected.append(x)
    maps = PerceptualLoss(path, ["conv1_2", "conv2_2"]).maps(image)
    torch.testing.assert_close(maps, [expected[1], expected[3]], rtol=1e-4, atol=1e-3)


def test_perceptual_loss_sees_blur_where_pixels_hardly_do(shared_data: Path) -> None:
    """With the real weights: blur and a faint shade of the same squared error; blur must count for more."""
    loss = PerceptualLoss(shared_data / "weights" / VGG, ["conv1_2", "conv2_2"])
    torch.manual_seed(0)
    image = torch.nn.functional.interpolate(torch.rand(1, 1, 24, 24), (96, 96), mode="bicubic").clamp(0, 1)
    image = (image + 0.05 * torch.randn_like(image)).clamp(0, 1)
    blurred = torch.nn.functional.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
    shaded = image + (blurred - image).square().mean().sqrt()
    errors = {name: loss(other, image) for name, other in (("blur", blurred), ("shade", shaded), ("none", image))}
    assert all(set(found) == {"perceptual"} for found in errors.values())
    assert float(errors["blur"]["perceptual"]) > 3 * float(errors["shade"]["perceptual"])
    assert float(errors["none"]["perceptual"]) == 0


def test_gram_matrices_are_those_of_each_square() -> None:
    maps = torch.randn(2, 3, 9, 12)  # the ninth row is left over
    found = gram_matrices(maps, 4)
    assert found.shape == (2, 6, 3, 3)
    square = maps[1, :, 4:8, 8:12].flatten(1)
    torch.testing.assert_close(found[1, 5], square @ square.T / 16)


def test_texture_counts_grain_but_not_where_each_grain_lies(shared_data: Path) -> None:
    """With the real weights: other grain of the same kind is the same texture; the image without grain is not."""
    loss = PerceptualLoss(shared_data / "weights" / VGG, ["conv1_2", "conv2_2"], patch=16)
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 1, 6, 6), (96, 96), mode="bicubic")
    image, again = (smooth + 0.03 * torch.randn_like(smooth) for _ in range(2))
    grained, bare = loss(again, image), loss(smooth, image)
    assert float(grained["texture"]) < 0.5 * float(bare["texture"])
    assert float(grained["perceptual"]) > 0.9 * float(bare["perceptual"])
    assert float(loss(image, image)["texture"]) == 0
    small = torch.rand(1, 1, 8, 8, requires_grad=True)  # smaller than a patch
    loss(small, torch.rand(1, 1, 8, 8))["texture"].backward()
    assert small.grad is not None and small.grad.abs().sum() > 0


def test_alternation_of_every_second_column_is_found_and_noise_has_none() -> None:
    torch.manual_seed(0)
    noise = torch.randn(8, 1, 129, 129)
    assert alternation(noise, 2) < 0.01
    assert alternation(noise, 8) < 0.02
    steps = torch.randn(8, 1, 129, 129)
    steps[..., 2::2] *= 1.1  # from each odd column to the next
    weave = steps.cumsum(dim=3)
    assert alternation(weave, 2) == pytest.approx(0.1 / 2.1, abs=0.01)
    assert alternation(weave.movedim(2, 3), 2) == pytest.approx(0.1 / 2.1, abs=0.01)  # rows alike


def test_raster_term_counts_grain_that_follows_the_patches_and_no_other() -> None:
    torch.manual_seed(0)
    target = torch.randn(4, 1, 65, 65)
    raster = torch.randn(4, 1, 65, 65)
    raster[..., ::8] *= 2
    loss = ReconstructionLoss(raster_weight=1.0)
    found = []
    for image in (target + raster, torch.randn(4, 1, 65, 65), target):
        loss(prediction(image), target)
        found.append(loss.parts["raster"])
    assert found[0] > 5 * found[1] > 0
    assert found[2] == 0
    ReconstructionLoss()(prediction(target), target)  # without the term no image is too small


def test_bf16_texture_is_that_of_float32_to_a_hundredth(tmp_path: Path) -> None:
    path = make_vgg(tmp_path, seed=0)
    torch.manual_seed(0)
    image, other = torch.rand(2, 1, 32, 32), torch.rand(2, 1, 32, 32)
    exact, coarse = (
        PerceptualLoss(path, ["conv1_2"], patch=16, precision=precision)(image, other)
        for precision in (None, torch.bfloat16)
    )
    for name, value in exact.items():
        assert coarse[name].dtype == torch.float32
        assert float(coarse[name]) == pytest.approx(float(value), rel=0.02)


def damage_of(share: float, images: torch.Tensor, noise: float = 0.5, smoothing: float = 1.0) -> tuple[Any, Any]:
    """Damage of the latents of images, and the inferer that does it to an autoencoder on principal components."""
    autoencoder = PrincipalAutoencoder(4, (8, 8), (1, 1), (1, 1))
    autoencoder.fit(images)
    inferer = DamagedInferer(autoencoder, images, crop_size=0)
    batch = {"image": images, "position": torch.arange(len(images))}
    *_, found = DamagedBatch(0, 4, 8, 0, share, noise, smoothing)(batch, torch.device("cpu"))
    return inferer, (autoencoder, found)


def smooth_images(count: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.nn.functional.interpolate(torch.rand(count, 1, 6, 6), (64, 64), mode="bicubic").clamp(0, 1)


def test_damage_leaves_its_share_of_latents_as_they_are() -> None:
    images = smooth_images(64)
    inferer, (autoencoder, found) = damage_of(0.5, images)
    z = autoencoder.encode(images)[0]
    error = (inferer.damaged(z, found["damage"]) - z).square().mean(dim=(1, 2, 3))  # (64,)
    assert 20 <= int((error < 1e-9).sum()) <= 44
    assert "damage" not in damage_of(0.0, images)[1][1]


def test_smoothed_latents_are_nearer_than_noised_ones_and_spread_less() -> None:
    images = smooth_images(64)
    inferer, (autoencoder, found) = damage_of(1.0, images)
    z = autoencoder.encode(images)[0]
    one = torch.ones(len(images), 1, 1, 1)
    noised, smooth = (
        inferer.damaged(z, found["damage"]._replace(level=one, smooth=(kind * one).bool())) for kind in (0, 1)
    )
    assert float((noised - z).std()) == pytest.approx(float(z.std()), rel=0.1)
    assert float((smooth - z).std()) < 0.8 * float((noised - z).std())
    assert float(smooth.std()) < float(z.std()) < float(noised.std())


def test_share_of_damaged_latents_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match="damaged_share is 2"):
        DamagedBatch(0, 4, 8, 0, share=2)


def test_perceptual_loss_says_what_it_lacks(tmp_path: Path) -> None:
    path = make_vgg(tmp_path, seed=0)
    with pytest.raises(WeightsError, match=r"lacks 10\.weight \(conv3_1"):
        PerceptualLoss(path, ["conv3_2"])
    with pytest.raises(ValueError, match="choose out of conv1_1"):
        PerceptualLoss(path, ["relu9"])


def test_perceptual_weight_without_its_network_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="give its file as perceptual_path"):
        run("train_autoencoder", perceptual_weight=0.1)
    with pytest.raises(ValueError, match="texture_patch is 0"):
        run("train_autoencoder", texture_weight=0.1, texture_patch=0, perceptual_path="vgg.pth")


def test_critic_learns_to_tell() -> None:
    """Grained images as real, flat ones as made: after some steps its opinions are apart, and it is frozen again."""
    torch.manual_seed(0)
    critic = build_critic(1.0, channels=8, levels=2, seed=0, device=torch.device("cpu"))
    assert critic is not None
    training = CriticTraining(critic, learning_rate=2e-3, loss=ReconstructionLoss(critic=critic), start=0)
    real, made = (0.5 + grain * torch.randn(8, 1, 32, 32) for grain in (0.1, 0.01))
    output = {CommonKeys.LABEL: real, CommonKeys.PRED: {"reconstruction": made + 0.05 * real}}
    engine = Engine(lambda *_: output)
    training.attach(engine)
    engine.run(range(40))
    with torch.no_grad():
        opinions = [float(critic(images)[-1].mean()) for images in (real, output[CommonKeys.PRED]["reconstruction"])]
    assert opinions[0] > opinions[1] + 1
    assert not any(parameter.requires_grad for parameter in critic.parameters())


def test_critic_is_heard_from_its_start_on_and_in_proportion(run: Run) -> None:
    out = run("train_autoencoder", adversarial_weight=0.5, critic_start=2)
    table = np.genfromtxt(out / "losses.csv", delimiter=",", names=True)
    assert table["adversarial_weight"][:2].tolist() == [0, 0]
    assert 0 < table["adversarial_weight"][2:].min() <= table["adversarial_weight"][2:].max() <= 1


def test_adversarial_gradient_has_its_share_of_the_others() -> None:
    torch.manual_seed(0)
    image, target = torch.rand(2, 1, 16, 16, requires_grad=True), torch.rand(2, 1, 16, 16)
    critic = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.LeakyReLU(), torch.nn.Conv2d(4, 1, 3))

    def gradient(weight: float) -> torch.Tensor:
        heard = None if weight == 0 else lambda x: [1e3 * critic(x)]
        loss = ReconstructionLoss(adversarial_weight=weight)
        loss.critic = heard  # type: ignore[assignment]
        return torch.autograd.grad(loss(prediction(image), target), image)[0]

    plain = gradient(0)
    assert float((gradient(0.3) - plain).norm()) == pytest.approx(0.3 * float(plain.norm()), rel=1e-3)


def test_training_with_a_critic_goes_on_bit_for_bit(run: Run, tmp_path: Path) -> None:
    options = {
        "adversarial_weight": 0.1,
        "damaged_share": 0.5,
        "finish_channels": 4,
        "grain": True,
        "epoch_length": 3,
        "checkpoint_every": 1,
        "warmup_steps": 2,
    }
    whole = run("train_autoencoder", output_dir=str(tmp_path / "whole"), max_epochs=2, **options)
    parts = tmp_path / "parts"
    stop = StopAfter(parts / "losses.csv", rows=4)
    with pytest.raises(KeyboardInterrupt), stop:
        run("train_autoencoder", output_dir=str(parts), max_epochs=2, **options)
    run("train_autoencoder", output_dir=str(parts), max_epochs=2, **options)
    assert (parts / "losses.csv").read_bytes() == (whole / "losses.csv").read_bytes()
    first, second = (load_file(folder / "autoencoder.safetensors") for folder in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)


class StopAfter:
    """Interrupts a training when its table of losses has so many rows."""

    def __init__(self, table: Path, rows: int) -> None:
        self.table, self.rows = table, rows

    def __enter__(self) -> None:
        from anatodiff.engines import Checkpoints

        self.save = Checkpoints.save

        def save(checkpoints: Checkpoints, engine: object, step: int) -> None:
            self.save(checkpoints, engine, step)
            if len(self.table.read_text().splitlines()) == 1 + self.rows:
                raise KeyboardInterrupt

        Checkpoints.save = save  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        from anatodiff.engines import Checkpoints

        Checkpoints.save = self.save  # type: ignore[method-assign]
