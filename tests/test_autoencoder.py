from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support import make_weights

from anatodiff.autoencoders import Autoencoder, ImageDataset, LatentDataset, latent_scale, load_autoencoder
from anatodiff.data import make_datalist
from anatodiff.losses import ReconstructionLoss
from anatodiff.weights import MODELS_DIR, WeightsError


def test_shapes_and_range(small_weights: dict[str, str]) -> None:
    autoencoder = load_autoencoder(small_weights["autoencoder_path"])
    mean, logvar = autoencoder.encode(torch.rand(2, 1, 64, 48))
    assert mean.shape == logvar.shape == (2, 4, 8, 6)
    images = autoencoder.decode(10 * mean)
    assert images.shape == (2, 1, 64, 48)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


@pytest.mark.parametrize("shape", [(1, 64, 64), (1, 3, 64, 64), (1, 1, 60, 64)])
def test_wrong_input_is_refused_with_its_shape(small_weights: dict[str, str], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        load_autoencoder(small_weights["autoencoder_path"]).encode(torch.zeros(shape))


def test_loaded_one_is_frozen_and_knows_its_hash(small_weights: dict[str, str]) -> None:
    autoencoder = load_autoencoder(small_weights["autoencoder_path"])
    assert len(autoencoder.sha256) == 64
    assert not any(parameter.requires_grad for parameter in autoencoder.parameters())
    with pytest.raises(WeightsError, match="kind 'autoencoder'"):
        load_autoencoder(small_weights["base_path"])


def test_shipped_weights_load_and_stay_small() -> None:
    autoencoder = load_autoencoder()
    assert autoencoder.encode(torch.zeros(1, 1, 256, 256))[0].shape == (1, 4, 32, 32)
    assert autoencoder.scaling_factor is None
    assert sum(file.stat().st_size for file in MODELS_DIR.iterdir()) < 20e6


def test_shipped_weights_compute_what_they_were_trained_for() -> None:
    autoencoder, images = load_autoencoder(), torch.rand(1, 1, 32, 64)
    assert isinstance(autoencoder, Autoencoder)
    features = autoencoder.net.encoder(torch.nn.functional.pixel_unshuffle(2 * images - 1, 4))
    mean, logvar = autoencoder.encode(images)
    assert torch.equal(mean, autoencoder.net.quant_conv_mu(features))
    assert torch.equal(logvar, autoencoder.net.quant_conv_log_sigma(features).clamp(-30, 20))
    values = torch.nn.functional.pixel_shuffle(autoencoder.net.decode(mean), 4)
    assert torch.equal(autoencoder.decode(mean), ((values + 1) / 2).clamp(0, 1))


def test_posterior_noise_moves_the_latent_by_its_deviation() -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder(4, (8, 8), norm_num_groups=4)
    images, noise = torch.rand(1, 1, 32, 32), torch.ones(1, 4, 4, 4)
    out = autoencoder(images, noise)
    z = out["mean"] + (0.5 * out["logvar"]).exp()
    torch.testing.assert_close(out["reconstruction"], autoencoder.reconstruct(z))


def test_reconstruction_loss_terms() -> None:
    target = torch.rand(2, 1, 8, 8)
    mean, logvar = torch.full((2, 4, 1, 1), 2.0), torch.zeros(2, 4, 1, 1)
    shifted = {"reconstruction": target + 0.1, "mean": mean, "logvar": logvar}
    loss = ReconstructionLoss(kl_weight=0.5, edge_weight=3.0)
    assert float(loss(shifted, target)) == pytest.approx(0.1 + 0.5 * 2.0, rel=1e-5)  # a shift has no edges
    stripes = torch.zeros(2, 1, 8, 8)
    stripes[:, :, :, ::2] = 0.1
    loss({"reconstruction": target + stripes, "mean": mean, "logvar": logvar}, target)
    assert loss.parts["edges"] == pytest.approx(0.1, rel=1e-5)


def items(folder: Path) -> list[dict]:
    return make_datalist(folder, test_fraction=0.2).train


def dataset(folder: Path, cache: Path, weights: dict[str, str], size: int = 64) -> LatentDataset:
    return LatentDataset(items(folder), size, cache, load_autoencoder(weights["autoencoder_path"]))


def test_cache_is_used_again_and_gives_the_same(
    small_images: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    first = dataset(small_images, tmp_path, small_weights)
    written = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    again = dataset(small_images, tmp_path, small_weights)
    assert written == {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert torch.equal(first.mean, again.mean)
    assert torch.equal(first.images, again.images)
    assert first.labels.tolist() == [item["label"] for item in first.items]


def test_cache_is_not_used_for_another_configuration(
    small_images: Path, small_weights: dict[str, str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = make_weights(tmp_path_factory.mktemp("other"), seed=1)
    changed = tmp_path_factory.mktemp("changed") / "images"
    shutil.copytree(small_images, changed)
    picture = Path(items(changed)[0]["image"])
    donor = Path(items(changed)[1]["image"])
    picture.write_bytes(donor.read_bytes())
    keys = [
        dataset(small_images, tmp_path, small_weights).key,
        dataset(small_images, tmp_path, other).key,
        dataset(small_images, tmp_path, small_weights, size=32).key,
        dataset(changed, tmp_path, small_weights).key,
    ]
    assert len(set(keys)) == 4
    assert dataset(small_images, tmp_path, small_weights, size=32).mean.shape[-1] == 4


def test_damaged_cache_is_made_anew(small_images: Path, small_weights: dict[str, str], tmp_path: Path) -> None:
    first = dataset(small_images, tmp_path, small_weights)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(first.mean, dataset(small_images, tmp_path, small_weights).mean)


def test_scale_factor_gives_the_training_set_unit_variance(
    small_images: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    data = dataset(small_images, tmp_path, small_weights)
    draws = data.mean + (0.5 * data.logvar).exp() * torch.randn(data.mean.shape)
    assert float((draws * latent_scale(data)).std()) == pytest.approx(1, rel=0.02)


def test_no_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images"):
        ImageDataset([], 64, tmp_path)
