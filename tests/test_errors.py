"""What goes wrong ends with a code that is not 0 and a last line that says what, which and the cure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from support import ROOT, SMALL, run_bundle

from anatodiff.engines.workflow import check_command_line

CASES: dict[str, tuple[str, dict[str, object], list[str]]] = {
    # name: (config, options, words of the last line)
    "unknown option": ("train.json", {"learning_rat": 1}, ["learning_rat", "did you mean 'learning_rate'"]),
    "unknown option of inference": ("inference.json", {"steps": 9}, ["'steps'", "the options are"]),
    "empty folder": ("train.json", {"dataset_dir": "@empty"}, ["empty", "dataset_dir"]),
    "missing folder": ("train.json", {"dataset_dir": "@nothing"}, ["nothing", "dataset_dir"]),
    "one image": ("train.json", {"dataset_dir": "@one"}, ["only one usable image", "give more"]),
    "one patient": ("train.json", {"dataset_dir": "@one_patient"}, ["one patient", "labels.csv"]),
    "NaN pixels": ("train.json", {"dataset_dir": "@nan"}, ["no usable image", "correct these"]),
    "too many prototypes": ("train.json", {"n_prototypes": 25}, ["n_prototypes=25", "lower"]),
    "missing weights": ("train.json", {"base_path": "nowhere.safetensors"}, ["nowhere.safetensors", "give the path"]),
    "missing adapter": ("inference.json", {"run_dir": "@empty"}, ["adapter.safetensors", "give the path"]),
    "unknown sampler": ("train.json", {"sampler": "euler"}, ["'euler'", "ddim"]),
    "unknown mode": ("train.json", {"finetuning": "lorra"}, ["'lorra'", "difffit"]),
    "no test images": ("train.json", {"test_fraction": 0.0}, ["no images", "test_fraction"]),
    "few test images": ("train.json", {"test_fraction": 0.01}, ["held back", "test_fraction"]),
    "too many sampling steps": ("train.json", {"sampling_steps": 5000}, ["1 to 1000", "got 5000"]),
    "too few samples": ("train.json", {"samples_per_class": 0}, ["samples_per_class is 0"]),
    "fp16 without a GPU": ("train.json", {"amp": "fp16", "device::name": "cpu"}, ["'fp16' needs a GPU", "bf16"]),
    "wrong momentum": ("train.json", {"ema_momentum": 1}, ["ema_momentum must be between 0 and 1"]),
    "unknown method": ("train.json", {"prototype_method": "kmedoids"}, ["'kmedoids'", "density_peak"]),
    "loss that is no number": ("train.json", {"learning_rate": 1e30, "topology_weight": 0}, ["loss is nan", "lower"]),
    "run_dir of a training": ("train.json", {"run_dir": "x"}, ["'run_dir' is not known"]),
    "unknown device": ("train.json", {"device::name": "cuda:77"}, ["cuda:77", "'auto'"]),
}


@pytest.fixture(scope="module")
def folders(small_images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("folders")
    for name in ("empty", "one", "one_patient", "nan"):
        (root / name).mkdir()
    shutil.copy(small_images / "image00.png", root / "one")
    rows = ["file,label,patient_id"]
    for i in range(4):
        shutil.copy(small_images / f"image{i:02d}.png", root / "one_patient")
        rows.append(f"image{i:02d}.png,a,same")
    (root / "one_patient" / "labels.csv").write_text("\n".join(rows))
    for i in range(3):
        pixels = np.random.default_rng(i).random((64, 64), dtype=np.float32)
        pixels[5, 5] = np.nan
        nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), root / "nan" / f"{i}.nii.gz")
    return {f"@{name}": str(root / name) for name in ("empty", "one", "one_patient", "nan", "nothing")}


@pytest.mark.parametrize("case", list(CASES))
def test_last_line_helps(
    case: str, folders: dict[str, str], small_images: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    config, changes, words = CASES[case]
    options: dict[str, object] = {**SMALL[config.removesuffix(".json")], **small_weights}
    if config == "train.json":
        options |= {"dataset_dir": small_images, "output_dir": tmp_path / "out", "cache_dir": tmp_path / "cache"}
    options |= {key: folders.get(str(value), value) for key, value in changes.items()}
    done = run_bundle(config, *(part for key, value in options.items() for part in (f"--{key}", value)))
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    for word in words:
        assert word in last, last


def test_unknown_key_in_a_config_is_refused(tmp_path: Path) -> None:
    config = json.loads((ROOT / "configs" / "train.json").read_text())
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"batch_sizes": 4}))
    assert "batch_size" in config
    files = f"['{ROOT}/configs/train.json','{overlay}']"
    done = run_bundle("train.json", "--config_file", files)
    assert done.returncode != 0
    assert "did you mean 'batch_size'" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("given", [["--threshold", "None"], ["--threshold=null"]])
def test_an_option_that_monai_would_drop_is_refused(given: list[str]) -> None:
    done = run_bundle("train.json", *given)
    assert done.returncode != 0
    assert "write --threshold '$None'" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("given", [["--overwrite", "false"], ["--overwrite=true"]])
def test_an_option_that_monai_would_take_for_a_text_is_refused(given: list[str]) -> None:
    done = run_bundle("inference.json", *given)
    assert done.returncode != 0
    assert "'overwrite' cannot be given as" in done.stderr.strip().splitlines()[-1]


def test_the_word_none_is_a_value() -> None:
    check_command_line(["run", "training", "--topology_essential", "none", "--topology_time=none"])


def test_unknown_part_of_a_section_is_refused() -> None:
    done = run_bundle("train.json", "--train::baches", 4)
    assert done.returncode != 0
    assert "train::baches" in done.stderr.strip().splitlines()[-1]


def test_unknown_argument_of_a_component_is_refused() -> None:
    done = run_bundle("train.json", "--schedule::timestep", 4)
    assert done.returncode != 0
    assert "timestep" in done.stderr.strip().splitlines()[-1]
