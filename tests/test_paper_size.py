"""The paper's own setting at full size: DiT-XL/2 and the Stable Diffusion VAE, with random weights, on two cores."""

from __future__ import annotations

import csv
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support import ROOT

from anatodiff.data import write_radiograph
from anatodiff.networks import build_dit
from anatodiff.weights import load_weights

KIB, GIB = 2**10, 2**30
MEMORY = 24 * GIB
DISK = 4 * GIB  # the two weights, the adapter's merged network and some room
IMAGES = 6
# biases 489,632, labels 2 x 1152, gammas 28 x 2 x 1152; the module: 3 x 1152 x 64, its trunk, 14 layers of 64 to 1152.
TRAINED = 489_632 + 2 * 1152 + 28 * 2 * 1152 + 3 * 1152 * 64 + 2 * 65 * 64 + 14 * 65 * 1152


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Six images of 256 pixels and random weights in the published formats."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is in the extra 'test'")
    root = tmp_path_factory.mktemp("paper")
    meminfo = Path("/proc/meminfo").read_text().split()
    available = int(meminfo[meminfo.index("MemAvailable:") + 1]) * KIB
    if available < MEMORY * 0.75 or shutil.disk_usage(root).free < 2 * DISK:
        pytest.skip("DiT-XL/2 needs 18 GiB of free memory and 8 GiB of disk")
    (root / "images").mkdir()
    for i in range(IMAGES):
        y, x = np.mgrid[0:256, 0:256] / 256
        image = 0.5 + 0.4 * np.sin((3 + i) * x + i * y)
        write_radiograph(root / "images" / f"{i}.png", image.astype(np.float32))
    with torch.device("meta"):
        shapes = build_dit("DiT-XL/2", 1000, 32).state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {
        name: 0.02 * torch.randn(shape.shape, generator=generator).half() for name, shape in shapes.items()
    }  # fmt: skip
    torch.save(state, root / "DiT-XL-2-256x256.pt")
    torch.manual_seed(0)
    diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
    ).save_pretrained(root / "sd-vae")  # fmt: skip
    yield root
    shutil.rmtree(root)  # gigabytes, which pytest would keep


def test_two_steps_and_a_guided_sample_of_dit_xl_2(folder: Path) -> None:
    options = {
        "dataset_dir": folder / "images", "output_dir": folder / "out", "cache_dir": folder / "cache",
        "base_path": folder / "DiT-XL-2-256x256.pt", "autoencoder_path": folder / "sd-vae", "test_fraction": 0.5,
        "n_prototypes": 2, "max_epochs": 1, "epoch_length": 2, "batch_size": 2, "sampler": "ddim",
        "sampling_steps": 2, "preview_images": 0, "samples_per_class": 3, "device::name": "cpu",
    }  # fmt: skip
    configs = f"['{ROOT}/configs/train.json','{ROOT}/configs/paper.json']"
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", configs]
    command += [str(part) for key, value in options.items() for part in (f"--{key}", value)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=1500)
    said = done.stdout + done.stderr
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * KIB  # of the largest child so far
    assert done.returncode == 0, said[-3000:]
    print(f"peak memory {peak / GIB:.1f} GiB")
    assert peak < MEMORY
    assert f"trains {TRAINED:,} of 67" in said
    with open(folder / "out" / "losses.csv") as file:
        rows = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(rows) == 2
    assert np.isfinite(rows).all()
    settings = load_weights(folder / "out" / "adapter.safetensors", "adapter").settings
    assert settings["shapes"]["blocks"] == 7
    assert settings["scale_factor"] == 0.18215
    assert len(list((folder / "out" / "samples").glob("*.dcm"))) == 3
