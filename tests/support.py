"""Plain helpers of the tests: small weights, and workflows as a user starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pydicom
import torch
from monai.bundle import ConfigWorkflow

from anatodiff.autoencoders import Autoencoder, PrincipalAutoencoder, load_autoencoder, save_autoencoder
from anatodiff.data import write_radiograph
from anatodiff.data.dicom_file import write_dicom
from anatodiff.engines.workflow import cause_of
from anatodiff.networks import Base, DiT, build_dit, save_base

ROOT = Path(__file__).resolve().parents[1]
VGG16_WIDTHS = (4, 6, 8, 10, 12)  # of the published one: 64, 128, 256, 512, 512
SIZE = 64  # side of the small images; their latents are 8 x 8

# Settings under which every workflow runs in about a second on the small weights and images.
SMALL: dict[str, dict[str, Any]] = {
    "train": {
        "image_size": SIZE, "max_epochs": 2, "epoch_length": 2, "batch_size": 4, "warmup_steps": 1, "n_prototypes": 4,
        "learning_rate": 0.05, "sampling_steps": 3, "preview_steps": 2, "samples_per_class": 3, "spm_width": 8,
        "guidance_scale": 2.0,
    },
    "prepare": {"image_size": SIZE, "n_prototypes": 4},
    "pretrain": {
        "image_size": SIZE, "max_epochs": 2, "epoch_length": 2, "batch_size": 4, "warmup_steps": 1, "size": "DiT-XS/8",
        "learning_rate": 0.01, "sampling_steps": 3, "preview_steps": 2, "test_fraction": 0.3, "guidance_scale": 2.0,
        "extra_share": 0.5,
    },
    "train_autoencoder": {
        "image_size": SIZE, "crop_size": 32, "max_epochs": 2, "epoch_length": 2, "batch_size": 4, "warmup_steps": 1,
        "channels": [8, 8], "encoder_blocks": [1, 1], "decoder_blocks": [1, 1], "test_fraction": 0.3,
        "extra_share": 0.5, "critic_channels": 8, "critic_levels": 1, "critic_start": 0,
    },
    "inference": {"sampling_steps": 3, "samples_per_class": 3, "guidance_scale": 2.0},
    "evaluate": {"image_size": SIZE, "nearest_k": 3},
    "ct_cat_diff": {
        "n_prototypes": 0, "doses": [0.25, 1.0], "slices_per_scan": 2, "measured": [], "samples_per_class": 4,
        "learning_rate": 0.01, "preview_images": 2,
    },
    "ct_natural": {"doses": [0.1, 0.5]},
    "ct_evaluate": {"image_size": SIZE, "doses": [0.25, 1.0], "slices_per_scan": 2, "segmentation_steps": 2},
}  # fmt: skip


def make_weights(folder: Path, seed: int) -> dict[str, str]:
    """Write a small untrained autoencoder and a small DiT whose output is not zero; returns the options for them."""
    torch.manual_seed(seed)
    paths = {
        "autoencoder_path": str(folder / f"ae{seed}.safetensors"),
        "base_path": str(folder / f"dit{seed}.safetensors"),
    }
    save_autoencoder(paths["autoencoder_path"], Autoencoder(4, (8, 8), norm_num_groups=4), {})
    network = DiT(input_size=SIZE // 8, patch_size=4, hidden_size=32, depth=4, num_heads=2, num_classes=3)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    encoder = load_autoencoder(paths["autoencoder_path"])
    save_base(paths["base_path"], Base(network, 1.5, ["a", "b", "c"], "", encoder.sha256, "CC0"), {})
    return paths


def make_base(folder: Path, seed: int, autoencoder_path: str) -> str:
    """Write a base in the shape that the tests pretrain, whose output is not zero; returns its path."""
    network = build_dit("DiT-XS/8", 3, SIZE // 8, seed=seed)
    torch.manual_seed(seed)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    path = folder / f"start_dit{seed}.safetensors"
    encoder = load_autoencoder(autoencoder_path)
    save_base(path, Base(network, 1.5, ["a", "b", "c"], "", encoder.sha256, "CC0"), {})
    return str(path)


class TinyFeatures(torch.nn.Module):
    """Three channels to feature maps; refuses any other number, as a real network does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 6, kernel_size=5, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x))  # (B, 6, h, w)


def make_features(folder: Path, seed: int) -> str:
    """Write a small network of features as TorchScript; returns its path."""
    torch.manual_seed(seed)
    path = folder / f"features{seed}.pt"
    torch.jit.script(TinyFeatures().eval()).save(str(path))
    return str(path)


def make_start(folder: Path, seed: int) -> str:
    """Write a small autoencoder of the kind that is trained, to go on from; returns its path."""
    torch.manual_seed(seed)
    path = folder / f"start{seed}.safetensors"
    autoencoder = PrincipalAutoencoder(4, (8, 8), (1, 1), (1, 1))
    autoencoder.fit(torch.rand(8, 1, SIZE, SIZE))
    save_autoencoder(path, autoencoder, {})
    return str(path)


def make_vgg(folder: Path, seed: int) -> str:
    """Write the first convolutions of VGG-19 with random weights, named as in the published file; returns the path."""
    torch.manual_seed(seed)
    widths = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128)}
    tensors = {}
    for place, (before, after) in widths.items():
        tensors[f"{place}.weight"] = torch.randn(after, before, 3, 3) / (9 * before) ** 0.5
        tensors[f"{place}.bias"] = torch.zeros(after)
    path = folder / f"vgg{seed}.pth"
    torch.save(tensors, path)
    return str(path)


def make_vgg16(folder: Path, seed: int, prefix: str = "features.") -> str:
    """Write a narrow VGG-16 with random weights, named as in torchvision; returns its path."""
    torch.manual_seed(seed)
    tensors, before = {}, 3
    for places, after in zip(((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)), VGG16_WIDTHS, strict=True):
        for place in places:
            tensors[f"{prefix}{place}.weight"] = torch.randn(after, before, 3, 3) * (2 / (9 * before)) ** 0.5
            tensors[f"{prefix}{place}.bias"] = 0.1 * torch.randn(after)
            before = after
    path = folder / f"vgg16_{seed}.pth"
    torch.save(tensors, path)
    return str(path)


def make_lpips(folder: Path, seed: int) -> str:
    """Write linear weights of LPIPS for the narrow VGG-16, named as in the published file; returns the path."""
    torch.manual_seed(seed)
    tensors = {f"lin{number}.model.1.weight": torch.rand(1, width, 1, 1) for number, width in enumerate(VGG16_WIDTHS)}
    path = folder / f"lpips{seed}.pth"
    torch.save(tensors, path)
    return str(path)


def smooth_pictures(n: int, seed: int) -> torch.Tensor:
    """Draw smooth images that differ so much that a copy is found even when it is shifted, (n, 1, 64, 64)."""
    coarse = torch.rand(n, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic").clamp(0, 1)


def write_pictures(folder: Path, images: torch.Tensor) -> str:
    """Write images (n, 1, H, W) as a folder of one class, each of a patient of its own; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        write_radiograph(folder / f"{folder.name}{number:02d}.png", image[0].numpy())
    rows = [f"{folder.name}{number:02d}.png,smooth,{folder.name}{number}" for number in range(len(images))]
    (folder / "labels.csv").write_text("\n".join(["file,label,patient_id", *rows]) + "\n")
    return str(folder)


def with_domains(images: Path, folder: Path) -> str:
    """Copy the small images, with two domains in turn."""
    header, *lines = (images / "labels.csv").read_text().splitlines()
    for line in lines:
        name = line.split(",")[0]
        (folder / name).write_bytes((images / name).read_bytes())
    rows = [f"{line},domain{number % 2}" for number, line in enumerate(lines)]
    (folder / "labels.csv").write_text("\n".join([f"{header},domain", *rows]) + "\n")
    return str(folder)


def with_burned_in(images: Path, folder: Path) -> str:
    """Copy the small images and add DICOM files of two patients whose annotation is burned in."""
    for file in images.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    rows = []
    for number, image in enumerate(smooth_pictures(2, seed=9)):
        path = write_radiograph(folder / f"burned{number}.dcm", image[0].numpy())
        dataset = pydicom.dcmread(path)
        dataset.BurnedInAnnotation = "YES"
        write_dicom(dataset, str(path))
        rows.append(f"{path.name},common,burned{number}\n")
    with open(folder / "labels.csv", "a") as file:
        file.writelines(rows)
    return str(folder)


def small_settings(*names: str) -> dict[str, Any]:
    """The small settings of a config and of overlays over it, of those that the workflow reads."""
    small = {key: value for name in names for key, value in SMALL.get(name, {}).items()}
    if names[0] == "inference":
        return small if len(names) == 1 else {**SMALL["inference"], "samples_per_class": 2}
    return small


def config_files(*names: str) -> list[str]:
    """The paths of a config and of overlays over it."""
    return [str(ROOT / "configs" / f"{name}.json") for name in names]


def run_workflow(*names: str, **options: Any) -> None:
    """Run a workflow in this process under its small settings; an error is raised as its cause.

    Args:
        names: the config's name without ending, and those of overlays.
        options: as on the command line.
    """
    kind = "infer" if names[0] == "inference" else "train"
    settings = {**small_settings(*names), **options}
    workflow = ConfigWorkflow(config_files(*names), workflow_type=kind, **settings)
    hook = sys.excepthook
    try:
        workflow.initialize()
        workflow.run()
    except Exception as error:  # MONAI wraps errors in its own; a user reads the cause in the last line
        raise cause_of(error) from None
    finally:
        workflow.finalize()
        sys.excepthook = hook


class CTTrainer:
    """Trains Cat-Diff and its variants on a folder of CT, each into a folder of its own, and samples.

    Args:
        given: options of all trainings.
        make_folder: makes an empty folder.
    """

    def __init__(self, given: dict[str, str], make_folder: Callable[[str], Path]) -> None:
        self.given, self.make_folder = given, make_folder

    def __call__(self, *overlays: str, **options: Any) -> Path:
        given = {**self.given, "output_dir": str(self.make_folder("ct_run")), **options}
        run_workflow("train", "ct_cat_diff", *overlays, **given)
        return Path(given["output_dir"])

    def sample(self, run: Path, root: Path, **options: Any) -> Path:
        """Sample with the network of a run into a folder below `root`; returns it."""
        places = {"run_dir": str(run), "dataset_dir": str(root / "generated")}
        run_workflow("inference", "ct_cat_diff", **{**self.given, **places, **options})
        return root / "generated"


def options_for(name: str, images: Path, weights: dict[str, str], root: Path) -> dict[str, str]:
    """Say where a workflow finds its input and leaves its output, in the options that it has.

    Args:
        name: the config's name without ending.
        images: folder of radiographs.
        weights: paths of the small weights.
        root: folder for everything that it writes.

    Returns:
        options of `run_workflow`.
    """
    if name == "inference":
        return {**weights, "dataset_dir": str(root / "generated"), "cache_dir": str(root / "cache")}
    if name == "evaluate":
        places = {"dataset_dir": images, "generated_dir": images, "run_dir": root / "out", "cache_dir": root / "cache"}
        return {key: str(place) for key, place in places.items()}
    given = {"dataset_dir": str(images), "output_dir": str(root / "out"), "cache_dir": str(root / "cache")}
    if name != "train_autoencoder":
        given["autoencoder_path"] = weights["autoencoder_path"]
    return {**given, "base_path": weights["base_path"]} if name == "train" else given


def bundle_command(config: str, *options: object, run_id: str = "run") -> list[str]:
    """The command line that a user types."""
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(ROOT / "configs" / config)]
    return command + [str(option) for option in options]


def run_bundle(config: str, *options: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a config as a user does, in a process of its own; but its imports are done once for all tests."""
    command = bundle_command(config, *options)
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        request = {"arguments": command[3:], "folder": str(ROOT), "environment": dict(os.environ), "seconds": timeout}
        code = _ask_zygote({**request, "out": str(out), "err": str(err)})
        texts = [file.read_text(errors="replace") for file in (out, err)]
    if code is None:
        raise subprocess.TimeoutExpired(command, timeout, *texts)
    return subprocess.CompletedProcess(command, code, *texts)


def _ask_zygote(request: dict[str, Any]) -> int | None:
    zygote = _zygote()
    assert zygote.stdin is not None and zygote.stdout is not None
    zygote.stdin.write(json.dumps(request) + "\n")
    zygote.stdin.flush()
    return json.loads(zygote.stdout.readline())


@cache
def _zygote() -> subprocess.Popen[str]:
    program = Path(__file__).with_name("zygote.py")
    return subprocess.Popen([sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
