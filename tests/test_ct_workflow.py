"""CT as a user trains it, samples with it and measures it, on small phantoms and weights."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image
from support import SIZE, CTTrainer, config_files, make_weights, run_workflow

from anatodiff.data import read_ct, write_ct, write_ct_mask, write_ct_noise
from anatodiff.engines.workflow import OptionError, check_options
from anatodiff.weights import WeightsError, load_weights

SPACING = (3.0, 1.5, 1.5)
CT = ("train", "ct_cat_diff")
UNETS = ("ct_seg_diff", "ct_spade", "ct_unet", "ct_controlnet")
VARIANTS = tuple(f"na_diff_{letter}" for letter in "abcdef")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs in gray and colour, some not square."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for number in range(6):
        size = (8, 6) if number % 2 else (8, 8)
        pixels = random.integers(0, 255, (*size, 3) if number % 3 else size, dtype=np.uint8)
        Image.fromarray(pixels).resize((80 + 4 * number, 80), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def adapter_of(run: Path) -> Any:
    return load_weights(run / "adapter.safetensors", "adapter")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "requests.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_training_leaves_a_network_and_samples_with_their_requests(cat_diff: Path) -> None:
    facts = adapter_of(cat_diff).settings["ct"]
    assert facts["conditions"] == ["noise", "mask"] and facts["ways"] == ["global", "spatial"]
    assert facts["organs"] == ["liver"] and facts["window"] == [-160, 240] and facts["pixel_spacing"] > 1
    rows = rows_of(cat_diff / "samples")
    assert [row["dose"] for row in rows] == ["0.25", "1", "0.25", "1"]  # every dose as often
    assert all(row["organs"] == "liver" and int(row["reference"]) >= 0 for row in rows)
    for row in rows:
        stem = cat_diff / "samples" / row["sample"]
        hu = read_ct(Path(f"{stem}_ct.nii.gz"))
        assert hu.slices.shape == (1, SIZE, SIZE) and -160 <= hu.slices.min() <= hu.slices.max() <= 240
        assert hu.spacing is not None and hu.spacing[1] == pytest.approx(facts["pixel_spacing"], rel=1e-3)
        noise = nib.load(f"{stem}_noise.nii.gz").get_fdata()
        assert nib.load(f"{stem}_seg.nii.gz").get_fdata().max() == 1
        assert noise.min() >= 0 and noise.max() > 0


@pytest.mark.parametrize("ending", [".nii.gz", ""], ids=["nifti", "dicom"])
def test_a_mask_and_a_map_from_files_are_sampled(
    train_ct: CTTrainer, cat_diff: Path, tmp_path: Path, ending: str
) -> None:
    labels = np.zeros((2, 40, SIZE), np.uint8)
    labels[:, 10:30, 8:40] = 5
    noise = np.full(labels.shape, 20.0, np.float32)
    noise[:, :, 32:] = 40
    mask, maps = tmp_path / f"mask{ending}", tmp_path / f"noise{ending}"
    if ending:
        write_ct_mask(mask, labels, SPACING)
        write_ct_noise(maps, noise, SPACING)
    else:
        write_ct(mask, labels, SPACING)
        write_ct(maps, noise, SPACING)
    given = {"mask_path": str(mask), "noise_path": str(maps), "organs": {"liver": [5]}}
    folder = train_ct.sample(cat_diff, tmp_path, **given)
    assert len(rows_of(folder)) == 4  # two of each slice
    for row in rows_of(folder):
        stem = folder / row["sample"]
        assert row["organs"] == "liver" and not row["reference"]
        dicom = read_ct(Path(f"{stem}_dicom"))
        np.testing.assert_allclose(dicom.slices, read_ct(Path(f"{stem}_ct.nii.gz")).slices, atol=0.51)
        assert nib.load(f"{stem}_seg.nii.gz").get_fdata().sum() == 20 * 32
        assert nib.load(f"{stem}_noise.nii.gz").get_fdata().mean() == pytest.approx(30 * 40 / SIZE, rel=0.01)


def test_a_mask_of_the_data_and_a_level_are_sampled(
    train_ct: CTTrainer, cat_diff: Path, ct_phantoms: Path, tmp_path: Path
) -> None:
    mask = ct_phantoms / "abdomen_0000_seg.nii.gz"
    samples = {
        level: train_ct.sample(
            cat_diff, tmp_path / str(level), mask_path=str(mask), noise_level=level, formats=["nii.gz"]
        )
        for level in (5.0, 80.0)
    }
    found = [read_ct(folder / "sample_00000_ct.nii.gz").slices for folder in samples.values()]
    assert not np.array_equal(*found)  # the network hears it
    assert not list(samples[5.0].glob("*_dicom"))


def test_a_stopped_training_goes_on_to_the_same_weights(train_ct: CTTrainer, cat_diff: Path, tmp_path: Path) -> None:
    train_ct(output_dir=str(tmp_path), max_epochs=1)
    train_ct(output_dir=str(tmp_path))
    resumed, whole = adapter_of(tmp_path).tensors, adapter_of(cat_diff).tensors
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_stage_goes_on_from_an_earlier_one(train_ct: CTTrainer) -> None:
    short = {"max_epochs": 1, "epoch_length": 1, "preview_images": 0}
    first = train_ct("na_diff_a", base_path=None, size="DiT-XS/8", **short)
    assert adapter_of(first).settings["ct"]["conditions"] == ["noise"]
    second = train_ct("na_diff_c", base_path=str(first / "adapter.safetensors"), learning_rate=1e-9, **short)
    before, after = adapter_of(first).tensors, adapter_of(second).tensors
    kept = [name for name in before if name.startswith("blocks.")]
    assert kept and all(torch.allclose(before[name], after[name], atol=1e-6) for name in kept)
    assert adapter_of(second).settings["ct"]["conditions"] == ["mask"]


def test_a_stage_of_another_autoencoder_or_size_is_refused(train_ct: CTTrainer, cat_diff: Path, tmp_path: Path) -> None:
    stage = str(cat_diff / "adapter.safetensors")
    other = make_weights(tmp_path, seed=1)["autoencoder_path"]
    with pytest.raises(WeightsError, match="another autoencoder"):
        train_ct("na_diff_c", base_path=stage, autoencoder_path=other)
    with pytest.raises(ValueError, match="set image_size"):
        train_ct("na_diff_c", base_path=stage, image_size=2 * SIZE)


@pytest.mark.parametrize("mode", ["difffit", "lora"])
def test_a_ct_network_is_fine_tuned_in_part(train_ct: CTTrainer, cat_diff: Path, tmp_path: Path, mode: str) -> None:
    base = {"base_path": str(cat_diff / "adapter.safetensors"), "finetuning": mode}
    tuned = train_ct(**base, test_fraction=0.4)
    assert "blocks.0.attn.qkv.weight" in adapter_of(cat_diff).tensors
    assert not any(name.endswith("attn.qkv.weight") for name in adapter_of(tuned).tensors)
    folder = train_ct.sample(tuned, tmp_path, base_path=base["base_path"], noise_level=20.0)
    assert len(rows_of(folder)) == 2


def test_prototypes_and_the_loss_of_anatomy_can_be_switched_on(train_ct: CTTrainer) -> None:
    run = train_ct(n_prototypes=2, threshold=None, topology_weight=1e-3)
    assert any("shape" in name or "prototype" in name for name in adapter_of(run).tensors)
    assert (run / "attention.png").is_file()
    last = (run / "losses.csv").read_text().splitlines()
    column = last[0].split(",").index(next(name for name in last[0].split(",") if "topolog" in name))
    assert float(last[-1].split(",")[column]) > 0


def test_photographs_come_first_and_ct_after_them(train_ct: CTTrainer, photographs: Path, tmp_path: Path) -> None:
    given = {key: train_ct.given[key] for key in ("cache_dir", "autoencoder_path")}
    run_workflow("pretrain", "ct_natural", dataset_dir=str(photographs), output_dir=str(tmp_path), **given)
    assert (tmp_path / "dit.safetensors").is_file() and list((tmp_path / "progress").glob("*.png"))
    run = train_ct("na_diff_b", base_path=str(tmp_path / "dit.safetensors"))
    assert adapter_of(run).settings["ct"]["conditions"] == ["noise"]


@pytest.mark.parametrize("overlay", ["ct_seg_diff", "ct_controlnet"])
def test_u_nets_are_trained_and_sampled(train_ct: CTTrainer, ct_phantoms: Path, tmp_path: Path, overlay: str) -> None:
    run = train_ct(overlay, base_path=None, max_epochs=1, epoch_length=1)
    mask = str(ct_phantoms / "abdomen_0000_seg.nii.gz")
    assert len(rows_of(train_ct.sample(run, tmp_path, base_path=None, mask_path=mask))) == 4


def test_a_run_is_measured(train_ct: CTTrainer, cat_diff: Path, tmp_path: Path) -> None:
    given = {"dataset_dir": train_ct.given["dataset_dir"], "cache_dir": train_ct.given["cache_dir"]}
    run_workflow("ct_evaluate", run_dir=str(cat_diff), output_dir=str(tmp_path), **given)
    record = json.loads((tmp_path / "ct_metrics.json").read_text())
    assert {"fidelity", "anatomy", "noise", "copies"} <= record.keys() and record["settings"]["samples"] == 4
    assert (tmp_path / "ct_evaluation.csv").is_file() and (tmp_path / "ct_report.png").is_file()


def test_phantoms_stand_in_for_a_missing_folder(
    train_ct: CTTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anatodiff.engines.ct.PHANTOM_SIZE", SIZE)
    monkeypatch.setattr("anatodiff.engines.ct.PHANTOM_SLICES", 2)
    run = train_ct(dataset_dir=None, phantom_images=2, test_fraction=0.5, cache_dir=str(tmp_path), max_epochs=1)
    assert len(list((tmp_path / "phantoms-ct-2").glob("*_ct.nii.gz"))) == 2
    assert len(rows_of(run / "samples")) == 4


def unread(*names: str) -> set[str]:
    """The top-level keys of a config with overlays that its workflow does not read."""
    config, found = ConfigParser.load_config_files(config_files(*names)), []
    while True:
        try:
            check_options({**config, "elsewhere": found})
        except OptionError as error:
            found.append(re.findall(r"option '(\w+)' is not known", str(error))[0])
        else:
            return set(found)


def elsewhere(*names: str) -> list[str]:
    return ConfigParser.load_config_files(config_files(*names)).get("elsewhere", [])


WORKFLOWS = {
    **{overlay: [(*CT, overlay)] for overlay in UNETS},
    "ct_cat_diff": [CT, ("inference", "ct_cat_diff")],
    "ct_natural": [("pretrain", "ct_natural")],
}


@pytest.mark.parametrize("overlay", list(WORKFLOWS))
def test_elsewhere_is_what_a_workflow_leaves_unread(overlay: str) -> None:
    known = elsewhere(*WORKFLOWS[overlay][0])
    assert len(known) == len(set(known))
    left = set().union(*(unread(*names) for names in WORKFLOWS[overlay]))
    if overlay in UNETS:
        left |= unread("inference", "ct_cat_diff")
    assert set(known) == left


@pytest.mark.parametrize("overlay", ["", *VARIANTS, *UNETS])
def test_overlays_leave_no_option_dead(overlay: str) -> None:
    """What is excused over one workflow is excused by name: nothing else is unread."""
    names = (*CT, overlay) if overlay else CT
    assert unread(*names) <= set(elsewhere(*names))


CASES = [
    (names, option)
    for names in (CT, ("inference", "ct_cat_diff"), ("pretrain", "ct_natural"))
    for option in sorted(unread(*names))
]


@pytest.mark.parametrize(("names", "option"), CASES, ids=[f"{names[0]}-{option}" for names, option in CASES])
def test_an_option_of_elsewhere_is_refused_where_it_is_given(
    names: tuple[str, ...], option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ConfigParser.load_config_files(config_files(*names))
    check_options(config)
    for given in ([f"--{option}", "1"], [f"--{option}=1"]):
        monkeypatch.setattr("sys.argv", ["monai.bundle", "run", "run", *given])
        with pytest.raises(OptionError, match=f"{option}' is not read by this workflow with this overlay"):
            check_options(config)
