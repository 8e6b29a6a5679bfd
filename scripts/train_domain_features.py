"""Train the network of features that ships: to know a radiograph again after crop, turn, noise, blur and exposure.

    python scripts/train_domain_features.py --dataset_dir phantoms --extra_dir radiographs --output features.safetensors

Two versions of each image are to be nearer to each other than to all others of the batch (InfoNCE). Mirror images are
others: a flipped chest is another anatomy. Images of one patient never meet in a batch.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn

from anatodiff.autoencoders import ImageDataset
from anatodiff.data import make_datalist
from anatodiff.diffusion.draws import generator
from anatodiff.metrics.domain import SIDE, WIDTHS, DomainFeatures, DomainNetwork, save_domain_features

READ_SIDE = 160  # pixels: room for the crops
TEMPERATURE = 0.1
PROJECTED = 64
ZOOM, SHIFT, TURN = 0.15, 0.06, 0.12  # shares of the side; radians
NOISE, EXPOSURE, CONTRAST = 0.05, 0.35, 0.25
BLUR = 0.5  # share of the versions that lose half of their pixels first


def version(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Draw another version of each image.

    Args:
        images: (B, 1, H, W) in [0, 1].
        random: source of the draws.

    Returns:
        (B, 1, SIDE, SIDE) in [0, 1].
    """
    draw = 2 * torch.rand(len(images), 8, generator=random) - 1  # (B, 8) in [-1, 1]
    scale, turn = 1 - ZOOM / 2 + ZOOM / 2 * draw[:, 0], TURN * draw[:, 1]
    rows = [scale * turn.cos(), -scale * turn.sin(), SHIFT * draw[:, 2]]
    rows += [scale * turn.sin(), scale * turn.cos(), SHIFT * draw[:, 3]]
    places = nn.functional.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), [len(images), 1, SIDE, SIDE], False)
    seen = nn.functional.grid_sample(images, places, padding_mode="border", align_corners=False)  # (B, 1, S, S)
    soft = nn.functional.interpolate(nn.functional.avg_pool2d(seen, 2), (SIDE, SIDE), mode="bilinear")
    seen = torch.where((draw[:, 4] < 2 * BLUR - 1)[:, None, None, None], soft, seen)
    gamma, gain, noise = (draw[:, k][:, None, None, None] for k in (5, 6, 7))  # (B, 1, 1, 1) each
    seen = (1 + CONTRAST * gain) * (seen.clamp(0, 1) ** (EXPOSURE * gamma).exp() - 0.5) + 0.5
    grain = torch.randn(seen.shape, generator=random)
    return (seen + NOISE * noise.abs() * grain).clamp(0, 1)


def contrast(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Compare versions (B, D) with their partners and all others; returns the loss and how often the partner won."""
    both = nn.functional.normalize(torch.cat([first, second]), dim=1)  # (2 B, D)
    likeness = both @ both.T / TEMPERATURE  # (2 B, 2 B)
    likeness.fill_diagonal_(-torch.inf)
    partner = torch.arange(len(both)).roll(len(first))  # (2 B,)
    found = float((likeness.argmax(dim=1) == partner).float().mean())
    return nn.functional.cross_entropy(likeness, partner), found


def choose(patients: list[list[int]], count: int, random: torch.Generator) -> list[int]:
    """Choose one image of each of `count` different patients."""
    drawn = torch.randperm(len(patients), generator=random)[:count].tolist()
    return [patients[k][int(torch.randint(len(patients[k]), (1,), generator=random))] for k in drawn]


def load(folder: Path, cache_dir: Path) -> tuple[torch.Tensor, list[list[int]]]:
    """Read a folder: (N, 1, H, W), and the rows of each patient."""
    items = make_datalist(folder, test_fraction=0).train
    patients: dict[str, list[int]] = {}
    for row, item in enumerate(items):
        patients.setdefault(item["patient"], []).append(row)
    return ImageDataset(items, READ_SIDE, cache_dir).images, list(patients.values())


def main(arguments: list[str] | None = None) -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True, help="large folder")
    parser.add_argument("--extra_dir", type=Path, help="small folder, a quarter of each batch")
    parser.add_argument("--output", type=Path, required=True, help=".safetensors file to write")
    parser.add_argument("--cache_dir", type=Path, default=Path("output/cache"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch_size", type=int, default=64, help="images, each of another patient")
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--licence", default="not stated", help="of the data, for the file's header")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    folders = [load(folder, options.cache_dir) for folder in (options.dataset_dir, options.extra_dir) if folder]
    few = options.batch_size // 4 if len(folders) > 1 else 0
    torch.manual_seed(options.seed)
    network = DomainNetwork()
    head = nn.Sequential(nn.Linear(WIDTHS[-1], 128), nn.SiLU(), nn.Linear(128, PROJECTED))
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=options.learning_rate)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, total_steps=options.steps)
    started = time.monotonic()
    for step in range(options.steps):
        random = generator(options.seed, step, "domain features")
        counts = (options.batch_size - few, few)
        parts = [images[choose(patients, count, random)]
                 for (images, patients), count in zip(folders, counts, strict=False)]  # fmt: skip
        images = torch.cat(parts).float()  # (B, 1, H, W)
        versions = [DomainFeatures.takes.prepare(version(images, random)) for _ in range(2)]
        loss, found = contrast(*(head(network(seen)) for seen in versions))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
        if (step + 1) % 100 == 0 or step + 1 == options.steps:
            spent = time.monotonic() - started
            print(f"step {step + 1}: loss {float(loss.detach()):.3f}, {found:.0%} found, {spent:.0f} s", flush=True)
    notes = {
        "images": [len(images) for images, _ in folders], "patients": [len(patients) for _, patients in folders],
        "steps": options.steps, "batch_size": options.batch_size, "learning_rate": options.learning_rate,
        "seed": options.seed, "licence": options.licence,
    }  # fmt: skip
    digest = save_domain_features(options.output, network, notes)
    print(f"wrote {options.output} ({options.output.stat().st_size / 1e6:.2f} MB, sha256 {digest})")


if __name__ == "__main__":
    main()
