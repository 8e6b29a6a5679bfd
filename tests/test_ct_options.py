"""Every option of the CT configs changes something that a user can see."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import ROOT, SIZE, CTTrainer, make_features, make_lpips, make_vgg16
from test_options import ELSEWHERE, Seen, observe

from anatodiff.data import write_ct_mask, write_ct_noise

TRAIN, INFERENCE = ("train", "ct_cat_diff"), ("inference", "ct_cat_diff")
NATURAL, EVALUATE = ("pretrain", "ct_natural"), ("ct_evaluate",)
# option -> another value. "@new": another place, "@fewer": the phantoms without the last patient, "@mask" and "@noise":
# files of a request, "@network": a segmentation, "@score": a rating, "@none": a folder with nothing in it; the rest as
# in test_options.
CHANGES: dict[tuple[str, ...], dict[str, Any]] = {
    TRAIN: {
        "dataset_dir": "@fewer", "phantom_images": 3, "max_scans": 4, "slices_per_scan": 1, "conditions_of": ["noise"],
        "condition_ways": ["tokens"], "condition_fusion": "sum", "condition_dropout": 1.0, "noise_scale": 50.0,
        "organs": ["spleen"], "window": [-100, 200], "doses": [0.1, 1.0], "available_dose": 0.5,
        "simulate_low_dose": False, "clip_path": "@none", "size": "DiT-XS/4",
    },
    INFERENCE: {
        "mask_path": "@mask", "noise_path": "@noise", "noise_level": 80.0, "organs": {"liver": [4]},
        "clip_path": "@none", "formats": ["nii.gz"],
    },
    NATURAL: {
        "dataset_dir": "@photographs", "doses": [0.1], "photons": 1e3, "window_width": 800.0, "noise_scale": 50.0,
        "condition_ways": ["global"], "condition_dropout": 1.0, "clip_path": "@none",
    },
    EVALUATE: {
        "run_dir": "@new", "generated_dir": "@none", "dataset_dir": "@fewer", "output_dir": "@new", "cache_dir": "@new",
        "organs": ["liver", "spleen"], "image_size": 32, "window": [-100, 200], "doses": [0.1, 1.0],
        "available_dose": 0.5, "slices_per_scan": 1, "simulate_low_dose": False, "max_scans": 4, "phantom_images": 5,
        "test_fraction": 0.4, "split_seed": 6, "segmentation_network": "@network", "segmentation_steps": 3,
        "noise_organ": "spleen", "pixel_spacing": 2.0, "downstream": True, "downstream_seeds": [1],
        "feature_network": "@features", "feature_channels": 1, "feature_size": 32, "feature_mean": 0.2,
        "feature_std": [0.5, 0.4, 0.3], "lpips_network": "@vgg16", "lpips_weights": "@lpips", "iqa_network": "@score",
        "seed": 5,
    },
}  # fmt: skip
# What cannot fit is refused, and the refusal is what the option changes.
REFUSED = {
    (TRAIN, "simulate_low_dose"): "no low-dose partner", (TRAIN, "clip_path"): "CLIP has no places",
    (NATURAL, "clip_path"): "CLIP has no places", (INFERENCE, "clip_path"): "CLIP has no places",
    (EVALUATE, "slices_per_scan"): "is of held-back slice", (EVALUATE, "simulate_low_dose"): "no low-dose partner",
    (INFERENCE, "organs"): "label 5 is out of range", (EVALUATE, "run_dir"): "no such folder",
    (EVALUATE, "generated_dir"): "no samples",
    (EVALUATE, "image_size"): "set|give image_size", (EVALUATE, "feature_channels"): "set feature_channels",
}  # fmt: skip
# Tested where the configs below are: their defaults alone are other ones here.
SAME = {"finetuning", "n_prototypes", "topology_weight", "max_epochs", "epoch_length", "learning_rate", "ema_momentum"}
SAME |= {"batch_size", "warmup_steps", "output_dir", "elsewhere"}
COMPONENTS = {"initialize", "run", "finalize", "handlers", "real_train", "real_test"}
QUICK = {"max_epochs": 1, "epoch_length": 1, "sampling_steps": 1, "preview_images": 0, "warmup_steps": 0}


def beside(names: tuple[str, ...], option: str) -> dict[str, Any]:
    """The options beside which another one is read."""
    if option == "phantom_images":
        return {"dataset_dir": None, "phantom_images": 3 if names == EVALUATE else 2, "test_fraction": 0.5}
    if option == "simulate_low_dose":
        return {"dataset_dir": "@single"}
    if option == "organs" and names == INFERENCE:
        return {"mask_path": "@mask", "organs": {"liver": [5]}}
    if option == "noise_path":
        return {"mask_path": "@mask", "organs": {"liver": [5]}, "noise_level": None}
    if option == "mask_path":
        return {"organs": {"liver": [5]}}
    if option == "noise_organ":
        return {"organs": ["liver", "spleen"], "segmentation_network": "@liver"}
    if option == "downstream":
        return {"test_fraction": 0.5}
    if option == "downstream_seeds":
        return {"downstream": True, "downstream_seeds": [0], "test_fraction": 0.5}
    if names == TRAIN and option in ("slices_per_scan", "organs"):
        return {"test_fraction": 0.5}
    if names == NATURAL and option in ("window_width", "noise_scale", "condition_dropout"):
        return {"epoch_length": 4}  # an untrained DiT hears nothing: at first its gates are closed
    if option.startswith("feature_"):
        return {"feature_network": "@features", "feature_channels": 3}
    if option.startswith("lpips_"):
        return {"lpips_network": "@vgg16", "lpips_weights": "@lpips"}
    return {}


@pytest.mark.parametrize("name", ["ct_cat_diff", "ct_natural", "ct_evaluate"])
def test_no_option_is_forgotten_here(name: str) -> None:
    config = json.loads((ROOT / "configs" / f"{name}.json").read_text())
    plain = {key for key, value in config.items() if not isinstance(value, dict)}
    changed = set().union(*(changes for names, changes in CHANGES.items() if name in names))
    own = {"dataset_dir"} if name != "ct_evaluate" else set()  # of the config below, but with another meaning
    assert plain - COMPONENTS - (SAME - changed) - ELSEWHERE == changed - own


class Makers:
    """Makes what the values in CHANGES stand for."""

    def __init__(self, phantoms: Path, factory: pytest.TempPathFactory) -> None:
        self.phantoms, self.factory = phantoms, factory

    def __call__(self, value: Any, root: Path, seed: int) -> Any:
        folder = self.factory.mktemp("made")
        makers: dict[str, Callable[[], str]] = {
            "@new": lambda: str(root / "elsewhere"),
            "@none": lambda: str(folder),
            "@fewer": lambda: self.copied(folder, lambda name: "0004" not in name),
            "@single": lambda: self.copied(folder, lambda name: "lowdose" not in name),
            "@photographs": lambda: photographs(folder, 7),
            "@mask": lambda: request(folder)[0],
            "@noise": lambda: request(folder)[1],
            "@network": lambda: network(folder),
            "@score": lambda: score(folder),
            "@liver": lambda: liver(folder),
            "@features": lambda: make_features(folder, seed),
            "@vgg16": lambda: make_vgg16(folder, seed),
            "@lpips": lambda: make_lpips(folder, seed),
        }
        return makers[value]() if isinstance(value, str) and value in makers else value

    def copied(self, folder: Path, wanted: Callable[[str], bool]) -> str:
        for file in self.phantoms.iterdir():
            if wanted(file.name):
                shutil.copy(file, folder)
        return str(folder)


def photographs(folder: Path, number: int) -> str:
    random = np.random.default_rng(0)
    for place in range(number):
        pixels = random.integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f"{place}.png")
    return str(folder)


def request(folder: Path) -> tuple[str, str]:
    labels = np.zeros((1, SIZE, SIZE), np.uint8)
    labels[:, 10:30, 8:40], labels[:, 40:50, 8:40] = 5, 4
    mask = write_ct_mask(folder / "mask.nii.gz", labels, (3.0, 1.5, 1.5))
    noise = write_ct_noise(folder / "noise.nii.gz", labels * np.float32(10), (3.0, 1.5, 1.5))
    return str(mask), str(noise)


class Liver(torch.nn.Module):
    """Takes all of an image for the first of two organs."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        nothing = torch.zeros_like(images)
        return torch.cat([nothing, nothing + 1, nothing], dim=1)


def liver(folder: Path) -> str:
    torch.jit.script(Liver()).save(str(folder / "liver.pt"))
    return str(folder / "liver.pt")


class Score(torch.nn.Module):
    """Rates an image by its brightness."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


def score(folder: Path) -> str:
    torch.jit.script(Score()).save(str(folder / "score.pt"))
    return str(folder / "score.pt")


def network(folder: Path) -> str:
    path = folder / "network.pt"
    torch.jit.script(torch.nn.Conv2d(1, 2, 3, padding=1)).save(str(path))
    return str(path)


@pytest.fixture(scope="module")
def baselines() -> dict[str, Seen]:
    """What the unchanged workflows show, filled by the first test that asks."""
    return {}


@pytest.fixture(scope="module")
def some_photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return photographs(tmp_path_factory.mktemp("photographs"), 6)


CASES = [(names, option) for names, changes in CHANGES.items() for option in changes]


@pytest.mark.parametrize(
    ("names", "option"), CASES, ids=[f"{names[-1]}-{names[0]}-{option}" for names, option in CASES]
)
def test_option_changes_something(
    names: tuple[str, ...],
    option: str,
    baselines: dict[str, Seen],
    ct_phantoms: Path,
    train_ct: CTTrainer,
    cat_diff: Path,
    some_photographs: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anatodiff.engines.ct.PHANTOM_SIZE", SIZE)
    monkeypatch.setattr("anatodiff.engines.ct.PHANTOM_SLICES", 2)
    make, others = Makers(ct_phantoms, tmp_path_factory), beside(names, option)

    def given(root: Path) -> dict[str, Any]:
        options: dict[str, Any] = {**train_ct.given, "output_dir": str(root / "out")}
        if names == NATURAL:
            options |= {**QUICK, "dataset_dir": some_photographs}
        elif names == EVALUATE:
            options |= {"run_dir": str(cat_diff)}
        elif names == INFERENCE:
            options |= {"run_dir": str(cat_diff), "dataset_dir": str(root / "generated"), "noise_level": 20.0}
            options |= {"sampling_steps": 1}
        else:
            options |= QUICK | ({"base_path": None, "size": "DiT-XS/8"} if option == "size" else {})
        unknown = {INFERENCE: {"output_dir"}, NATURAL: {"base_path"}, EVALUATE: {"base_path", "autoencoder_path"}}
        options = {key: value for key, value in options.items() if key not in unknown.get(names, ())}
        return options | {key: make(value, root, seed=0) for key, value in others.items()}

    key = f"{names} {option == 'size'} {others}"
    if key not in baselines:
        root = tmp_path_factory.mktemp("baseline")
        baselines[key] = observe(names, root, given(root))
    root = tmp_path_factory.mktemp("changed")
    options = given(root) | {option: make(CHANGES[names][option], root, seed=1)}
    if option == "noise_path":
        options["noise_level"] = None
    if (names, option) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[names, option]):
            observe(names, root, options)
    else:
        assert observe(names, root, options) != baselines[key]
