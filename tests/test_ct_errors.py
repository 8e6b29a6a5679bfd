"""What goes wrong with CT ends with a code that is not 0 and a last line that says what, which and the cure."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support import CTTrainer, config_files, run_bundle, run_workflow, small_settings

from anatodiff.data import write_ct_mask, write_ct_noise

SPACING = (3.0, 1.5, 1.5)
LABELS = np.zeros((1, 64, 64), np.uint8)
LABELS[:, 10:30, 8:40] = 5
KNOWN = {"organs": "{'liver': [5]}"}
BOTH = {**KNOWN, "mask_path": "@mask", "noise_path": "@noise"}

# name: (config, options, words of the last line). Values that begin with "@" are made below.
CASES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "dose of 0": ("train", {"doses": [0, 1]}, ["dose=0", "(0, 1]"]),
    "dose above 1": ("train", {"doses": [0.25, 1.5]}, ["dose=1.5", "(0, 1]"]),
    "low dose without its image": ("train", {"dataset_dir": "@low"}, ["_ct.nii.gz is missing", "take this one out"]),
    "volume without segmentation": ("train", {"dataset_dir": "@lits"}, ["segmentation-1.nii is missing", "add it"]),
    "unknown organ": ("train", {"organs": "['brain']"}, ["no organ 'brain'", "known there are", "give organs"]),
    "unknown window": ("train", {"window": "bones"}, ["window is 'bones'", "abdomen"]),
    "unknown way": ("train", {"condition_ways": "['tokens','x']"}, ["condition_ways must", "'x'", "spatial"]),
    "unknown fusion": ("train", {"condition_fusion": "mean"}, ["'mean'", "concat"]),
    "dropout above 1": ("train", {"condition_dropout": 2}, ["condition_dropout must be 0 to 1, got 2"]),
    "size and file": ("train", {"size": "DiT-XS/8"}, ["base_path", "give one of them"]),
    "CLIP with places": ("train", {"clip_path": "@empty"}, ["clip_path", "condition_ways to ['global']"]),
    "no CLIP": ("train", {"clip_path": "@empty", "condition_ways": "['global']"}, ["@empty", "CLIP"]),
    "no photographs": ("pretrain", {}, ["dataset_dir", "photographs"]),
    "folder without CT": ("train", {"dataset_dir": "@empty"}, ["@empty", "no CT", "give"]),
    "nothing asked for": ("inference", {}, ["nothing is asked for", "noise_level"]),
    "map of another size": ("inference", {**BOTH, "noise_path": "@small"}, ["@small", "but mask", "give a map"]),
    "map of another place": ("inference", {**BOTH, "noise_path": "@turned"}, ["@turned", "place", "give a map"]),
    "label out of range": ("inference", {**BOTH, "mask_path": "@seven"}, ["label 7", "from 0 to 5"]),
    "other organs": ("inference", {**BOTH, "organs": "{'spleen': [1]}"}, ["'spleen'", "knows ['liver']"]),
    "noise below 0": ("inference", {"noise_level": -1}, ["noise_level is -1", "give HU above 0"]),
    "map for a network of masks": ("inference", {**BOTH, "run_dir": "@masks"}, ["noise_path", "trained on mask alone"]),
    "no CT network": ("inference", {"noise_level": 9, "run_dir": "@plain"}, ["no CT network", "ct_cat_diff.json"]),
    "CLIP of a network without": ("inference", {"noise_level": 9, "clip_path": "@empty"}, ["clip_path"]),
    "no samples": ("ct_evaluate", {"run_dir": "@empty"}, ["samples", "no such folder", "give run_dir"]),
    "another noise organ": ("ct_evaluate", {"noise_organ": "spleen"}, ["'spleen'", "the data have liver"]),
    "samples of another size": ("ct_evaluate", {"image_size": 32}, ["not 1 x 32 x 32", "give image_size"]),
}  # fmt: skip
OVERLAYS = {"train": ["ct_cat_diff"], "inference": ["ct_cat_diff"], "pretrain": ["ct_natural"], "ct_evaluate": []}


@pytest.fixture(scope="module")
def made(ct_phantoms: Path, train_ct: CTTrainer, small_images: Path, tmp_path_factory: Any) -> dict[str, str]:
    """Folders and files that cannot be used, by the names in CASES."""
    root = tmp_path_factory.mktemp("made")
    for name in ("empty", "low", "lits"):
        (root / name).mkdir()
    for path in ct_phantoms.iterdir():
        if path.name != "abdomen_0000_ct.nii.gz":
            shutil.copy(path, root / "low")
    for number in range(2):
        shutil.copy(ct_phantoms / f"abdomen_000{number}_ct.nii.gz", root / "lits" / f"volume-{number}.nii.gz")
    shutil.copy(ct_phantoms / "abdomen_0000_seg.nii.gz", root / "lits" / "segmentation-0.nii.gz")
    noise = np.full(LABELS.shape, 20.0, np.float32)
    write_ct_mask(root / "mask.nii.gz", LABELS, SPACING)
    write_ct_mask(root / "seven.nii.gz", np.where(LABELS, 7, 0).astype(np.uint8), SPACING)
    write_ct_noise(root / "noise.nii.gz", noise, SPACING)
    write_ct_noise(root / "small.nii.gz", noise[:, :40], SPACING)
    image = nib.load(root / "noise.nii.gz")
    nib.save(nib.Nifti1Image(image.get_fdata(), np.diag([2.0, 2, 1, 1]) @ image.affine), root / "turned.nii.gz")
    given = {**train_ct.given, "dataset_dir": str(small_images), "output_dir": str(root / "plain")}
    run_workflow("train", **given, measured=[])
    files = {f"@{name}": str(root / f"{name}.nii.gz") for name in ("mask", "seven", "noise", "small", "turned")}
    folders = {f"@{name}": str(root / name) for name in ("empty", "low", "lits", "plain")}
    masks = train_ct("na_diff_c", base_path=train_ct.given["base_path"])
    return {**files, **folders, "@masks": str(masks)}


@pytest.mark.parametrize("case", list(CASES))
def test_last_line_helps(case: str, made: dict[str, str], train_ct: CTTrainer, cat_diff: Path, tmp_path: Path) -> None:
    config, changes, words = CASES[case]
    options: dict[str, Any] = {**small_settings(config, *OVERLAYS[config]), **train_ct.given}
    options |= {"output_dir": str(tmp_path / "out")} if config != "inference" else {"dataset_dir": str(tmp_path)}
    options |= {"run_dir": str(cat_diff)} if config in ("inference", "ct_evaluate") else {}
    if config in ("pretrain", "ct_evaluate"):
        del options["base_path"]
    if config == "pretrain":
        del options["dataset_dir"]
    if config == "ct_evaluate":
        del options["autoencoder_path"]
    options |= {key: made.get(str(value), value) for key, value in changes.items()}
    options = {key: "$None" if value is None else value for key, value in options.items()}
    parts = (part for key, value in options.items() for part in (f"--{key}", value))
    done = run_bundle(f"{config}.json", "--config_file", config_files(config, *OVERLAYS[config]), *parts)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    for word in words:
        assert made.get(word, word) in last, last
