"""Membership inference with the model in hand: sure of one that learned by heart, chance for an untrained one."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from support import SIZE, options_for, run_workflow, smooth_pictures, write_pictures

from anatodiff.autoencoders import Autoencoder, LatentDataset, load_autoencoder, save_autoencoder
from anatodiff.diffusion import normal_each, uniform_each
from anatodiff.engines.evaluation_inputs import RealImages, read_real
from anatodiff.engines.membership import ModelMembership, model_membership
from anatodiff.engines.workflow import OptionError
from anatodiff.networks import (
    Base,
    DiT,
    FineTuning,
    build_anatodiff,
    load_adapter,
    load_base,
    save_adapter,
    save_base,
    trained_names,
)

MEMBERS, STEPS, SCALE = 8, 800, 1.0
CHANCE = 3  # standard errors


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an autoencoder, a base, training and held-out pictures."""
    folder = tmp_path_factory.mktemp("membership")
    torch.manual_seed(0)
    save_autoencoder(folder / "ae.safetensors", Autoencoder(4, (8, 8), norm_num_groups=4), {})
    network = DiT(input_size=SIZE // 8, patch_size=2, hidden_size=64, depth=2, num_heads=2)
    sha = load_autoencoder(folder / "ae.safetensors").sha256
    save_base(folder / "dit.safetensors", Base(network, SCALE, ["any"], "", sha, "CC0"), {})
    write_pictures(folder / "train", smooth_pictures(MEMBERS, 0))
    write_pictures(folder / "held_out", smooth_pictures(24, 1))
    return folder


@pytest.fixture(scope="module")
def real(root: Path) -> RealImages:
    return read_real(root / "held_out", root / "train", None, root / "cache", SIZE, 0.2, 0, None, None, 0)


def adapter_of(root: Path, real: RealImages, steps: int) -> str:
    """Fine-tune all weights on the training pictures for some steps, and write the adapter; returns its path."""
    base = load_base(root / "dit.safetensors")
    network, schedule = build_anatodiff(base, 1, finetuning="full"), base.diffusion.build()
    autoencoder = load_autoencoder(root / "ae.safetensors")
    x0 = LatentDataset(real.train.items, SIZE, root / "cache", autoencoder).mean * SCALE  # (N, C, h, w)
    optimizer = torch.optim.Adam((p for p in network.parameters() if p.requires_grad), lr=2e-3)
    labels = torch.zeros(len(x0), dtype=torch.long)
    for step in range(steps):
        at = torch.arange(len(x0)) + step * len(x0)
        noise, index = normal_each(tuple(x0.shape[1:]), 5, at, "noise"), (uniform_each(5, at, "time") * 1000).long()
        said = network(schedule.add_noise(x0, noise, index), schedule.timesteps[index], class_labels=labels)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(said[:, : x0.shape[1]], noise).backward()
        optimizer.step()
    path = root / f"adapter{steps}.safetensors"
    save_adapter(path, network, trained_names(network), base, FineTuning("full"), {"classes": ["smooth"]})
    return str(path)


@pytest.fixture(scope="module")
def by_heart(root: Path, real: RealImages) -> str:
    return adapter_of(root, real, STEPS)


def attack(root: Path, path: str) -> ModelMembership:
    model = model_membership(path, root / "dit.safetensors", root / "ae.safetensors", root / "cache")
    assert model is not None
    return model


def test_what_was_learned_by_heart_is_found(root: Path, real: RealImages, by_heart: str) -> None:
    found = attack(root, by_heart)(real)
    assert found.auc > 0.95
    assert found.true_positives > 0.5


def test_an_untrained_network_tells_nothing(root: Path, real: RealImages) -> None:
    found = attack(root, adapter_of(root, real, 0))(real)
    assert abs(found.auc - 0.5) < CHANCE * found.stderr


def test_scores_are_those_of_the_image_alone(root: Path, real: RealImages, by_heart: str) -> None:
    model = attack(root, by_heart)
    mean = torch.randn(20, 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(20, dtype=torch.long)
    scores = model.scores(mean, labels)
    torch.testing.assert_close(model.scores(mean[[17]], labels[:1]), scores[[17]], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model.scores(mean, labels + 1), scores)  # the null label


def test_classes_are_told_only_if_both_sets_have_them(
    root: Path, real: RealImages, by_heart: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[set[int]] = []
    model = attack(root, by_heart)

    def scores(mean: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        told.append(set(labels.tolist()))
        return torch.zeros(len(labels))

    monkeypatch.setattr(model, "scores", scores)
    model(real)
    caplog.set_level(logging.INFO, "anatodiff")
    model(RealImages(real.train, real.reference, real.train_classes, ["unheard of"]))
    null = load_adapter(by_heart, root / "dit.safetensors").network.null_label
    assert told == [{0}, {0}, {null}, {null}]


def test_the_evaluation_shows_it(root: Path, by_heart: str, tmp_path: Path) -> None:
    given = options_for("evaluate", root / "held_out", {}, tmp_path) | {"generated_dir": str(root / "held_out")}
    given |= {"reference_dir": str(root / "held_out"), "train_dir": str(root / "train"), "dataset_dir": None}
    given |= {"base_path": str(root / "dit.safetensors"), "autoencoder_path": str(root / "ae.safetensors")}
    with pytest.raises(OptionError, match="base_path is read beside adapter_path only"):
        run_workflow("evaluate", **given)
    run_workflow("evaluate", **given, adapter_path=by_heart)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    privacy = json.loads((tmp_path / "out" / "privacy.json").read_text())
    assert metrics["model_membership_auc"]["value"] == privacy["model_membership"]["auc"] > 0.95
    assert metrics["model_membership_auc"]["stderr"] == privacy["model_membership"]["stderr"]
    assert metrics["model_membership_tpr"]["value"] == privacy["model_membership"]["true_positives"]
    settings = json.loads((tmp_path / "out" / "evaluation.json").read_text())["settings"]
    assert settings["model_membership"]["adapter_sha256"] == load_adapter(by_heart, root / "dit.safetensors").sha256
    assert "membership by the model, AUC" in (tmp_path / "out" / "report.html").read_text()
