from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from sklearn.decomposition import PCA
from support import make_start, make_weights

from anatodiff.autoencoders import (
    Autoencoder,
    ImageDataset,
    LatentDataset,
    PrincipalAutoencoder,
    build_autoencoder,
    latent_scale,
    load_autoencoder,
    save_autoencoder,
)
from anatodiff.autoencoders.latent_cache import cached
from anatodiff.data import make_datalist
from anatodiff.losses import ReconstructionLoss
from anatodiff.weights import MODELS_DIR, WeightsError, save_weights


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


def test_principal_autoencoder_starts_as_principal_components() -> None:
    """Against scikit-learn: the same patches are kept, and no choice of four components does better."""
    images = smooth_images(6)
    autoencoder = PrincipalAutoencoder()
    autoencoder.fit(images)
    patches = torch.nn.functional.pixel_unshuffle(images, 8).movedim(1, -1).flatten(0, 2).numpy()
    expected = PCA(4).fit(patches)
    again = torch.as_tensor(expected.inverse_transform(expected.transform(patches)), dtype=torch.float32)
    again = torch.nn.functional.pixel_shuffle(again.unflatten(0, (6, 4, 4)).movedim(-1, 1), 8)
    mean, _ = autoencoder.encode(images)
    torch.testing.assert_close(autoencoder.reconstruct(mean), again, rtol=0, atol=1e-4)
    flat = mean.movedim(1, -1).flatten(0, 2)
    torch.testing.assert_close(flat.T.cov(), torch.eye(4), rtol=0, atol=0.02)  # whitened
    assert float(autoencoder.encode(images.clamp_max(0.1))[0][:, 3].mean()) < 0  # dark is negative


def test_frozen_encoder_keeps_its_latents_while_the_decoder_learns(run: Run, tmp_path: Path) -> None:
    start = make_start(tmp_path, seed=0)
    out = run("train_autoencoder", start_path=start, frozen_encoder=True, learning_rate=0.01)
    before, after = load_autoencoder(start), load_autoencoder(out / "autoencoder.safetensors")
    images = smooth_images(2)
    assert torch.equal(before.encode(images)[0], after.encode(images)[0])
    assert not torch.equal(before.decode(before.encode(images)[0]), after.decode(after.encode(images)[0]))
    assert before.sha256 == after.sha256  # every base of the one fits the other
    out = run("train_autoencoder", start_path=start, learning_rate=0.01, output_dir=str(tmp_path / "other"))
    assert load_autoencoder(out / "autoencoder.safetensors").sha256 != before.sha256


def test_decoder_with_a_finish_and_grain_starts_from_a_file_that_has_neither(tmp_path: Path) -> None:
    """The first reconstructions are the file's to the bit, and training reaches the new layers."""
    start, made, images = tmp_path / "start.safetensors", tmp_path / "made.safetensors", smooth_images(2)
    network: dict[str, Any] = {"channels": (8, 8), "encoder_blocks": (1, 1), "decoder_blocks": (1, 1)}
    finish: dict[str, Any] = {**network, "finish_channels": 4, "finish_layers": 3, "grain": True}
    torch.manual_seed(0)
    trained = PrincipalAutoencoder(**network)
    torch.nn.init.normal_(trained.get_parameter("decoder.6.weight"))  # the last, which starts at zero
    save_autoencoder(start, trained, {}, half=False)
    before, after = load_autoencoder(start), build_autoencoder(images, **finish, start_path=start, frozen_encoder=True)
    z = before.encode(images)[0]
    assert torch.equal(before.reconstruct(z), after.reconstruct(z))
    assert after.sha256 == before.sha256  # every base of the one fits the other
    after.reconstruct(z).square().mean().backward()
    gradients = [after.get_parameter(name).grad for name in ("grain.gain.weight", "finish.last.weight")]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    save_autoencoder(made, after, {}, half=False)
    with pytest.raises(WeightsError, match="has finish_channels 4; set it so"):
        build_autoencoder(images, **network, start_path=made)
    assert torch.equal(build_autoencoder(images, **finish, start_path=made).reconstruct(z), after.reconstruct(z))


def test_same_latents_give_the_same_grain_at_any_size() -> None:
    torch.manual_seed(0)
    autoencoder = PrincipalAutoencoder(4, (8, 8), (1, 1), (1, 1), finish_channels=4, grain=True)
    for name in ("grain.gain", "finish.grain.gain", "finish.last"):
        torch.nn.init.normal_(autoencoder.get_submodule(name).weight)
    torch.nn.init.ones_(autoencoder.grain.gain.bias)
    flat = torch.zeros(1, 4, 40, 36)  # 320 x 288 pixels: larger than the noise map
    with torch.no_grad():
        image, part = autoencoder.reconstruct(flat), autoencoder.reconstruct(flat[..., :8, :8])
    assert image.shape == (1, 1, 320, 288)
    assert float(image.diff(dim=3).abs().mean()) > 1e-3  # grain where the latents have none
    torch.testing.assert_close(image[..., :32, :32], part[..., :32, :32])


@pytest.mark.parametrize(("options", "message"), [({"finish_channels": -1}, "0 for none"), ({"finish_layers": 1}, "2")])
def test_finish_that_cannot_be_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrincipalAutoencoder(**options)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (make_start, {"channels": [8, 16]}, r"has channels \[8, 8\]; set it so"),
        (
            lambda folder, seed: make_weights(folder, seed)["autoencoder_path"],
            {},
            "no autoencoder of this architecture",
        ),
    ],
)
def test_another_start_is_refused(
    run: Run, tmp_path: Path, make: Callable[[Path, int], str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        run("train_autoencoder", start_path=make(tmp_path, 0), **options)


def test_unknown_architecture_is_refused(tmp_path: Path) -> None:
    settings = {"kind": "autoencoder", "architecture": "other", "network": {}, "notes": {}}
    save_weights(tmp_path / "a.safetensors", {"x": torch.zeros(1)}, settings)
    with pytest.raises(WeightsError, match="unknown architecture 'other'"):
        load_autoencoder(tmp_path / "a.safetensors")


def smooth_images(n: int) -> torch.Tensor:
    """Draw images (n, 1, 32, 32) whose neighbouring pixels are alike, as in radiographs."""
    torch.manual_seed(0)
    noise = torch.nn.functional.interpolate(torch.rand(n, 1, 12, 12), (32, 32), mode="bicubic")
    return (noise + 0.02 * torch.randn(n, 1, 32, 32)).clamp(0, 1)


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


@pytest.mark.parametrize("damage", ["short", "empty", "first tensor byte", "last byte", "checksum", "type"])
def test_damaged_cache_is_made_anew_and_said(
    damage: str, small_images: Path, small_weights: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = dataset(small_images, tmp_path, small_weights)
    files = sorted(tmp_path.iterdir())
    whole = {file: file.read_bytes() for file in files}
    for file, data in whole.items():
        start = 8 + int.from_bytes(data[:8], "little")  # of the tensors
        places = {"first tensor byte": start, "last byte": len(data) - 1, "checksum": data.index(b'sha256":"') + 20}
        if damage in places:
            at = places[damage]
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        cuts = {"short": data[:100], "empty": b"", "type": data.replace(b'"I64"', b'"U64"').replace(b'"F32"', b'"I32"')}
        file.write_bytes(cuts.get(damage, data))
        assert file.read_bytes() != whole[file]
    caplog.set_level("WARNING", "anatodiff")
    again = dataset(small_images, tmp_path, small_weights)
    assert torch.equal(first.mean, again.mean)
    assert torch.equal(first.images, again.images)
    for file in files:
        assert f"cache {file.name} is damaged" in caplog.text
    assert {file: file.read_bytes() for file in sorted(tmp_path.iterdir())} == whole


def test_cache_depends_on_order_labels_and_how_images_are_read(
    small_images: Path, small_weights: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = items(small_images)
    other = [{**rows[0], "label": 1 - rows[0]["label"]}, *rows[1:]]
    keys = [ImageDataset(some, 64, tmp_path).key for some in (rows, rows[::-1], other)]
    monkeypatch.setattr("anatodiff.autoencoders.latent_cache.CACHE_VERSION", 999)
    keys.append(ImageDataset(rows, 64, tmp_path).key)
    assert len(set(keys)) == 4


def test_cache_is_made_once_for_two_runs_and_parts_of_killed_ones_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "anatodiff")
    path, begun, computed = tmp_path / "made.safetensors", threading.Event(), []
    killed = path.with_name(f".{path.name}.{'0' * 32}.part")
    foreign = path.with_name(f".other.safetensors.{'0' * 32}.part")
    for file in (killed, foreign):
        file.touch()

    def compute() -> dict[str, torch.Tensor]:
        computed.append(1)
        begun.set()
        time.sleep(0.3)
        return {"values": torch.arange(3)}

    first = threading.Thread(target=cached, args=(path, compute))
    first.start()
    begun.wait(10)
    assert cached(path, compute)["values"].tolist() == [0, 1, 2]
    first.join()
    assert len(computed) == 1
    assert f"process {os.getpid()} on" in caplog.text
    assert sorted(tmp_path.iterdir()) == [foreign, path]


def test_cache_that_cannot_be_written_is_said_before_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="give another cache_dir"):
        cached(tmp_path / "file" / "made.safetensors", lambda: pytest.fail("was made"))


def test_scale_factor_gives_the_training_set_unit_variance(
    small_images: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    data = dataset(small_images, tmp_path, small_weights)
    draws = data.mean + (0.5 * data.logvar).exp() * torch.randn(data.mean.shape)
    assert float((draws * latent_scale(data)).std()) == pytest.approx(1, rel=0.02)


def test_no_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images"):
        ImageDataset([], 64, tmp_path)
