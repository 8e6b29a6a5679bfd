"""Every option of every config changes something that a user can see."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pydicom
import pytest
from PIL import Image
from support import (
    ROOT,
    make_base,
    make_features,
    make_lpips,
    make_start,
    make_vgg,
    make_vgg16,
    make_weights,
    options_for,
    run_workflow,
    smooth_pictures,
    with_burned_in,
    with_domains,
    write_pictures,
)

from anatodiff.data import read_ct, read_radiograph
from anatodiff.engines.workflow import TRACKING_KEYS
from anatodiff.weights import load_weights

# option -> another value than the small run's. "@weights": another pair of weights, "@new": another place,
# "@database": one for MLflow, "@images": other images, "@all": all of them, "@domains": images with domains,
# "@features": another network of features, "@vgg": another network of the perceptual loss, "@vgg16" and "@lpips": of
# LPIPS, "@start": an autoencoder to go on from, "@labels": a table elsewhere, "@pictures": images that are all
# unlike each other, "@adapter": that of a finished run, "@burned": images of which some have burned-in annotation,
# "@held": images of other patients.
TRAINING = {
    "dataset_dir": "@images", "labels_path": "@labels", "output_dir": "@new", "cache_dir": "@new", "seed": 5,
    "image_size": 128, "test_fraction": 0.4, "max_images": 16, "allow_burned_in": True, "max_epochs": 1,
    "epoch_length": 3, "batch_size": 3, "learning_rate": 0.02, "weight_decay": 0.5, "warmup_steps": 2,
    "ema_momentum": 0.5, "checkpoint_every": 3, "val_interval": 2, "phantom_images": 24,
    "tracking_uri": "@database", "experiment_name": "other", "run_name": "mine",
}  # fmt: skip
DIFFUSION = {
    "autoencoder_path": "@weights", "data_licence": "CC0", "variance_weight": 0.1,
    "label_dropout": 1.0, "sampler": "ddpm", "sampling_steps": 2, "preview_steps": 3, "preview_images": 3,
    "guidance_scale": 1.0, "guidance_channels": [0, 1], "guidance_interval": [0.0, 0.5], "amp": "bf16",
    "accumulation_steps": 2, "optimizer_name": "muon", "muon_learning_rate": 0.2, "ema_power": 1.0,
}  # fmt: skip
FOLDERS = (
    "dataset_dir", "labels_path", "output_dir", "cache_dir", "seed", "image_size", "test_fraction", "max_images",
    "phantom_images", "allow_burned_in",
)  # fmt: skip
PROTOTYPES = {"n_prototypes": 3, "threshold": None, "prototype_method": "density_peak", "prototype_seed": 3}
CHANGES: dict[str, dict[str, Any]] = {
    "train": {
        **TRAINING, **DIFFUSION, **PROTOTYPES, "base_path": "@weights", "prediction": "flow",
        "start_class": "b",
        "split_seed": 6, "max_train_images": 8, "measured": ["after"], "keep_every": 2,
        "finetuning": "bitfit", "gamma": "linear", "lora_rank": 3, "lora_scale": 2.0, "lora_layers": ["fc1"],
        "train_stem": True,
        "selora_every": 2, "selora_threshold": 50.0, "spm_blocks": 3, "spm_width": None, "spm_query": "block",
        "spm_learnable": True, "topology_weight": 1e-3, "topology_homology": [0], "topology_norm": 2,
        "topology_channels": "mean", "topology_n_random": 3, "topology_essential": "none", "topology_time": "signal",
        "topology_until": 0.4, "edge_weight": 1.0, "samples_per_class": 2,
    },
    "prepare": {
        "split_seed": 6, "max_train_images": 8,
        **{key: TRAINING[key] for key in FOLDERS}, **PROTOTYPES, "autoencoder_path": "@weights",
    },
    "pretrain": {
        **TRAINING, **DIFFUSION, "timesteps": 500, "schedule_name": "cosine", "prediction": "epsilon",
        "zero_terminal_snr": True, "noise": "uniform", "noise_mean": -1.0, "noise_std": 0.5,
        "size": "DiT-XS/4", "weights_path": "@new",
        "extra_dir": "@images", "extra_share": 0.3, "domain_share": 0.9, "start_path": "@dit",
        "extra_phantoms": 4, "validation_dir": "@held", "augmented_versions": 2,
        "domain_weights": {"domain0": 0.1}, "class_balance": 1.0,
    },
    "train_autoencoder": {
        **TRAINING, "latent_channels": 3, "channels": [8, 12], "encoder_blocks": [1, 2], "decoder_blocks": [2, 1],
        "crop_size": 48, "kl_weight": 0.1, "edge_weight": 0.5, "pixel_norm": 1,
        "weights_path": "@new", "start_path": "@start", "frozen_encoder": True, "extra_dir": "@images",
        "extra_phantoms": 4, "validation_dir": "@held",
        "extra_share": 0.3, "perceptual_path": "@vgg", "perceptual_layers": ["conv1_1"], "perceptual_weight": 0.2,
        "texture_weight": 0.3, "texture_patch": 8, "perceptual_amp": "bf16", "raster_weight": 0.5,
        "finish_channels": 4, "finish_layers": 3, "grain": True,
        "damaged_share": 0.5, "damage_noise": 0.9, "damage_smoothing": 2.0,
        "adversarial_weight": 0.5, "critic_channels": 16, "critic_levels": 2, "critic_learning_rate": 0.01,
        "critic_start": 3,
    },
    "inference": {
        "autoencoder_path": "@weights", "base_path": "@weights", "adapter_path": "@new", "run_dir": "@new",
        "dataset_dir": "@new", "seed": 7, "sampler": "ddpm", "sampling_steps": 2, "guidance_scale": 1.0,
        "guidance_channels": [0, 1], "guidance_interval": [0.0, 0.5], "amp": "bf16", "samples_per_class": 2,
        "only_classes": ["rare"],
        "dicom_class": "DX", "body_part": "HAND", "laterality": "L", "patient_orientation": ["L", "F"],
        "spacing": [0.2, 0.3],
        "formats": ["nii.gz"], "refuse_copies_of": "@pictures", "held_out_dir": "@pictures", "cache_dir": "@new",
    },
    "evaluate": {
        **{key: TRAINING[key] for key in FOLDERS}, "generated_dir": "@images", "run_dir": "@new",
        "feature_network": "@features", "feature_channels": 1, "feature_size": 32,
        "feature_mean": 0.2, "feature_std": [0.5, 0.4, 0.3], "nearest_k": 2,
        "reference_dir": "@images", "train_dir": "@images", "split_seed": 6, "max_train_images": 8,
        "lpips_network": "@vgg16", "lpips_weights": "@lpips", "token_size": 16,
        "adapter_path": "@new", "base_path": "@weights", "autoencoder_path": "@weights",
    },
}  # fmt: skip
TRACKED = {"tracking_uri", "experiment_name", "run_name"}
# Tested where they belong: the root in test_bundle, the device in test_errors, and in test_training that overwriting
# is asked for and that the batch of sampling changes nothing but the pace.
ELSEWHERE = {"bundle_root", "device", "overwrite"}
# To measure takes longer than all the rest, and shows what the samples show.
QUICK: dict[str, dict[str, Any]] = {"train": {"measured": []}}
# What cannot fit the weights at hand is refused, and the refusal is what the option changes.
REFUSED = {
    ("train", "image_size"): "set image_size", ("train", "autoencoder_path"): "another autoencoder",
    ("train", "base_path"): "another autoencoder",
    ("train", "train_stem"): "no convolutional stem",
    ("train", "prediction"): "predicts 'epsilon', not 'flow'", ("inference", "autoencoder_path"): "another autoencoder",
    ("inference", "base_path"): "another autoencoder", ("inference", "adapter_path"): "no such weights file",
    ("inference", "run_dir"): "no such weights file", ("evaluate", "adapter_path"): "no such weights file",
    ("evaluate", "base_path"): "another autoencoder", ("evaluate", "autoencoder_path"): "another autoencoder",
    ("evaluate", "feature_channels"): "set feature_channels",
}  # fmt: skip


def context(name: str, option: str) -> tuple[str, dict[str, Any]]:
    """Where an option is read: most everywhere, some only beside another one. Returns its name and those others."""
    if name == "inference" and option in ("refuse_copies_of", "held_out_dir", "cache_dir"):
        return "refusal", {"refuse_copies_of": "@pictures", "held_out_dir": "@pictures"}
    if name == "evaluate" and option in ("adapter_path", "base_path", "autoencoder_path"):
        return "model", {"adapter_path": "@adapter", "base_path": "@weights", "autoencoder_path": "@weights"}
    if option in TRACKED:
        pytest.importorskip("mlflow", reason="mlflow is not installed; it is in the extra `tracking`")
        return "tracking", {"tracking": "mlflow"}
    if option == "dicom_class":
        return "dicom", {"body_part": "CHEST", "patient_orientation": ["L", "F"], "spacing": [0.1, 0.1]}
    if option == "allow_burned_in":
        return "burned in", {"dataset_dir": "@burned"}
    if option == "phantom_images":
        return "phantoms", {"dataset_dir": None, "phantom_images": 20}
    if option.startswith("feature"):
        return "features", {"feature_network": "@features", "feature_channels": 3}
    if option.startswith("lpips_"):
        return "lpips", {"lpips_network": "@vgg16", "lpips_weights": "@lpips"}
    if option.startswith("lora_"):
        return "lora", {"finetuning": "lora"}
    if option.startswith("selora_"):
        return "selora", {"finetuning": "selora", "lora_rank": 4, "selora_every": 1, "selora_threshold": 1.0001}
    if option.startswith("critic_"):
        return "critic", {"adversarial_weight": 0.1}
    if option == "finish_layers":
        return "finish", {"finish_channels": 3}
    if option.startswith("damage_"):
        return "damage", {"damaged_share": 1.0}
    if option.startswith(("perceptual_", "texture_")):
        return "perceptual", {"perceptual_path": "@vgg", "perceptual_weight": 0.1, "texture_weight": 0.1}
    if option in ("reference_dir", "train_dir"):
        return "folders", {"reference_dir": "@all", "train_dir": "@all", "dataset_dir": None}
    if option == "extra_share":
        return "extra", {"extra_dir": "@images"}
    if option.startswith("noise"):
        return "continuous", {"schedule_name": "continuous"}
    if option in ("optimizer_name", "muon_learning_rate"):
        matrices = {"finetuning": "full"} if name == "train" else {}
        return option, matrices | ({} if option == "optimizer_name" else {"optimizer_name": "muon"})
    if option == "ema_power":
        return "power", {"ema_momentum": None, "ema_power": 6.94}
    if option in ("domain_share", "domain_weights"):
        return "domains", {"dataset_dir": "@domains"}
    return "", {}


def simple_options(name: str) -> set[str]:
    """The options of a config: top-level keys that are no components."""
    config = json.loads((ROOT / "configs" / f"{name}.json").read_text())
    parts = {
        "initialize",
        "finalize",
        "run",
        "training",
        "handlers",
        "network",
        "network_def",
        "schedule",
    } | TRACKING_KEYS
    return {key for key, value in config.items() if key not in parts and not isinstance(value, dict)}


@pytest.mark.parametrize("name", list(CHANGES))
def test_no_option_is_forgotten_here(name: str) -> None:
    elsewhere = ELSEWHERE | ({"batch_size"} if name == "inference" else set())
    assert simple_options(name) - elsewhere == set(CHANGES[name])


Seen = tuple[dict[str, str], list[str]]


@pytest.fixture(scope="module")
def baselines() -> dict[tuple[str, str], Seen]:
    """What the unchanged workflows show, filled by the first test that asks."""
    return {}


@pytest.fixture(scope="module")
def run_dir(small_images: Path, small_weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, for inference."""
    root = tmp_path_factory.mktemp("run")
    run_workflow("train", **options_for("train", small_images, small_weights, root))
    return root / "out"


class Listener(logging.Handler):
    """Collects what is said; the workflows set up logging anew, so pytest's own handler would be lost."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def observe(name: str | tuple[str, ...], root: Path, options: dict[str, Any]) -> Seen:
    """Run a workflow and collect all that a user could notice: files with their bytes, and what was said."""
    listener, logger = Listener(), logging.getLogger("anatodiff")
    logger.addHandler(listener)
    try:
        run_workflow(*([name] if isinstance(name, str) else name), **options)
    finally:
        logger.removeHandler(listener)
    files = {
        str(file.relative_to(root)): hashlib.sha256(content(file)).hexdigest()
        for file in root.rglob("*")
        if file.is_file()
        and "tfevents" not in file.name
        and not file.name.startswith("checkpoint")
        and not file.name.endswith("manifest.json")
        and file.name != "mlflow_run.json"
    }
    return files, [line.replace(str(root), "") for line in listener.said]


def content(file: Path) -> bytes:
    """What a file holds, without the record of the options: an option must do more than to be written down."""
    if file.suffix == ".db":  # without times, and without the names that MLflow makes up
        with closing(sqlite3.connect(file)) as database:
            names = database.execute(
                "select experiments.name, runs.name from runs join experiments using (experiment_id)"
            )
            return repr([[name for name in row if "-" not in name] for row in names]).encode()
    if file.name.startswith("sample_") and file.name.endswith("_ct.nii.gz"):
        return read_ct(file).slices.tobytes()
    if file.name.startswith("slice_"):  # of a DICOM series: the same in whole HU
        return b""
    if file.name.endswith((".dcm", ".png", ".nii.gz")) and "samples" in file.parts and file.parts[-1][:7] != "sample_":
        return read_radiograph(file).pixels.tobytes()
    if file.name.endswith(".dcm"):  # without what is derived from the recipe alone
        dataset = pydicom.dcmread(file)
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID"):
            delattr(dataset, keyword)
        return re.sub(r"recipe \w+", "", dataset.to_json()).encode()
    if file.name.endswith((".png", ".nii.gz")) and "generated" not in file.parts:
        return file.read_bytes()
    if file.name.endswith(".png"):
        return repr((read_radiograph(file).pixels.tolist(), read_radiograph(file).spacing)).encode()
    kinds = {"adapter": "adapter", "dit": "dit", "autoencoder": "autoencoder"}
    if file.name == "ct_metrics.json":
        return json.dumps(
            {key: part for key, part in json.loads(file.read_text()).items() if key != "settings"}
        ).encode()
    if file.name == "evaluation.json":
        return json.dumps(json.loads(file.read_text())["metrics"]).encode()
    if file.stem not in kinds:
        return file.read_bytes()
    weights = load_weights(file, kinds[file.stem])
    header = {key: value for key, value in weights.settings.items() if key not in ("run", "notes", "base_sha256")}
    tensors = b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in sorted(weights.tensors.items()))
    return tensors + json.dumps(header, sort_keys=True).encode()


CASES = [(name, option) for name, changes in CHANGES.items() for option in changes]


@pytest.mark.parametrize(("name", "option"), CASES, ids=[f"{name}-{option}" for name, option in CASES])
def test_option_changes_something(
    name: str,
    option: str,
    baselines: dict[tuple[str, str], Seen],
    small_images: Path,
    small_weights: dict[str, str],
    run_dir: Path,
    feature_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    needs, others = context(name, option)

    def given(root: Path) -> dict[str, Any]:
        options: dict[str, Any] = options_for(name, small_images, small_weights, root)
        options |= QUICK.get(name, {})
        if name == "evaluate":
            options["cache_dir"] = str(feature_cache)
        options |= {key: resolved(key, other, root, seed=0) for key, other in others.items()}
        return options | ({"run_dir": str(run_dir)} if name == "inference" else {})

    def resolved(key: str, value: Any, root: Path, seed: int) -> Any:
        if value == "@new":
            return str(root / "elsewhere" / "file.safetensors") if key.endswith("_path") else str(root / "elsewhere")
        folder = tmp_path_factory.mktemp("made")
        makers: dict[str, Callable[[], str]] = {
            "@weights": lambda: make_weights(folder, seed)[key],
            "@database": lambda: f"sqlite:///{root / 'elsewhere.db'}",
            "@features": lambda: make_features(folder, seed),
            "@vgg": lambda: make_vgg(folder, seed),
            "@vgg16": lambda: make_vgg16(folder, seed),
            "@lpips": lambda: make_lpips(folder, seed),
            "@start": lambda: make_start(folder, seed),
            "@dit": lambda: make_base(folder, seed, small_weights["autoencoder_path"]),
            "@images": lambda: other_images(small_images, folder),
            "@all": lambda: str(small_images),
            "@held": lambda: other_patients(small_images, folder),
            "@labels": lambda: other_labels(small_images, folder),
            "@adapter": lambda: str(run_dir / "adapter.safetensors"),
            "@pictures": lambda: write_pictures(folder, smooth_pictures(5, 2 * seed + (key == "held_out_dir"))),
            "@domains": lambda: with_domains(small_images, folder),
            "@burned": lambda: with_burned_in(small_images, folder),
        }
        return makers[value]() if isinstance(value, str) and value in makers else value

    if (name, needs) not in baselines:
        root = tmp_path_factory.mktemp("baseline")
        baselines[name, needs] = observe(name, root, given(root))
    root = tmp_path_factory.mktemp("changed")
    options = given(root) | {option: resolved(option, CHANGES[name][option], root, seed=1)}
    if (name, option) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name, option]):
            observe(name, root, options)
    else:
        assert observe(name, root, options) != baselines[name, needs]


@pytest.mark.parametrize("name", list(CHANGES))
def test_without_a_change_nothing_changes(
    name: str,
    small_images: Path,
    small_weights: dict[str, str],
    run_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    seen = []
    for _ in range(2):
        root = tmp_path_factory.mktemp("same")
        options: dict[str, Any] = options_for(name, small_images, small_weights, root)
        seen.append(observe(name, root, options | ({"run_dir": str(run_dir)} if name == "inference" else {})))
    assert seen[0] == seen[1]


def other_images(images: Path, folder: Path) -> str:
    """Copy the small images without two of them."""
    lines = (images / "labels.csv").read_text().splitlines()
    for line in lines[1:-2]:
        name = line.split(",")[0]
        (folder / name).write_bytes((images / name).read_bytes())
    (folder / "labels.csv").write_text("\n".join(lines[:-2]) + "\n")
    return str(folder)


def other_patients(images: Path, folder: Path) -> str:
    """Copy the small images, turned, under other patients."""
    text = (images / "labels.csv").read_text().replace("patient", "other").replace("other_id", "patient_id")
    for image in images.glob("*.png"):
        Image.open(image).rotate(180).save(folder / image.name)
    (folder / "labels.csv").write_text(text)
    return str(folder)


def other_labels(images: Path, folder: Path) -> str:
    """Write a table of labels that leaves two of the small images out, beside nothing."""
    table = folder / "elsewhere.csv"
    table.write_text("\n".join((images / "labels.csv").read_text().splitlines()[:-2]) + "\n")
    return str(table)
