"""Does a base give back the real radiographs that it learned from? With a positive control, in three views.

    python scripts/copy_check.py --train_dir /data/varied --held_out_dir /data/others --start_class "chest radiograph"

For each sample the nearest training image, by pixels at 64 x 64 and by both networks, mirrored ones too. What is
nearer than every held-out image of another patient in any view counts as a copy. Training images as they are, with
noise, mirrored, shifted and cropped by some pixels must count as copies, else the check proves nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from anatodiff.autoencoders import ImageDataset, load_autoencoder
from anatodiff.data import DatasetError, make_datalist
from anatodiff.engines import SamplingInferer, sample
from anatodiff.engines.pictures import save_grid
from anatodiff.metrics import CopyDetector, DomainFeatures, ShippedFeatures, copy_rate, pixel_features, planted_copies
from anatodiff.networks import load_base
from anatodiff.weights import WeightsError

CONTROLS = 100
CAUGHT = 0.95  # of the controls, or the check proves nothing
PAIRS = 8


def images_of(folder: Path, cache_dir: Path, size: int) -> torch.Tensor:
    """Read all images of a folder, (N, 1, size, size)."""
    # Images with burned-in annotation, too: a search for copies must see all that the training may have seen.
    datalist = make_datalist(folder, test_fraction=0, allow_burned_in=True)
    return ImageDataset(datalist.train, size, cache_dir).images.float()


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns 0 where the check holds and no more copies than chance are found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_dir", type=Path, required=True, help="real images that the base learned from")
    parser.add_argument("--held_out_dir", type=Path, required=True, help="real images of other patients")
    parser.add_argument("--base_path", type=Path)
    parser.add_argument("--autoencoder_path", type=Path)
    parser.add_argument("--start_class", help="class of the base to sample; without: no class")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--sampling_steps", type=int, default=20)
    parser.add_argument("--cache_dir", type=Path, default=Path("output/cache"))
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--picture", type=Path, help="PNG of the worst pairs: shows patients")
    options = parser.parse_args(arguments)
    try:
        return check(options)
    except (DatasetError, WeightsError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def row(view: str, name: str, copied: torch.Tensor) -> str:
    """Lay out the share of copies (N,) in one row."""
    rate = copy_rate(copied)
    return f"| {view} | {name} | {100 * rate.value:.1f} % ({100 * rate.low:.1f} to {100 * rate.high:.1f}) |"


def check(options: argparse.Namespace) -> int:
    """Sample, compare and print the table; returns the exit code."""
    train, held_out = (
        images_of(f, options.cache_dir, options.image_size) for f in (options.train_dir, options.held_out_dir)
    )
    autoencoder = load_autoencoder(options.autoencoder_path)
    base = load_base(options.base_path, autoencoder)
    inferer = SamplingInferer(base.diffusion.build(), autoencoder, base.scale_factor, "dpmpp", options.sampling_steps)
    labels = torch.full((options.samples,), base.label_of(options.start_class))
    samples = sample(base.network, inferer, labels, 16, torch.device("cpu"))  # (N, 1, H, W)
    views = {"pixels": pixel_features, "features": ShippedFeatures(), "radiographs": DomainFeatures()}
    detector = CopyDetector(train, held_out, views)
    controls = planted_copies(train[:: max(1, len(train) // CONTROLS)])
    found = {"samples": detector(samples)}
    found |= {f"control, {name}": detector(images) for name, images in controls.items()}
    print("| view | images | nearer than any held-out |\n| --- | --- | --- |")
    for view, limit in detector.largest.items():
        for name, search in found.items():
            print(row(f"{view}, beyond {limit:.3f}", name, search.similarity[view] > limit))
    for name, search in found.items():
        print(row("either", name, search.copied))
    ours = found.pop("samples")
    clean = copy_rate(ours.copied).low <= 1 / len(held_out)  # what one more held-out image would be by chance
    holds = all(float(search.copied.float().mean()) >= CAUGHT for search in found.values())
    if options.picture is not None:
        worst = ours.similarity["pixels"].topk(min(PAIRS, len(samples))).indices
        pairs = [list(samples[worst]), list(train[ours.index["pixels"][worst]])]
        save_grid(options.picture, pairs, ["samples nearest to a training image", "that image"])
    print("no copies found" if clean else "COPIES FOUND", "" if holds else "(BUT THE CONTROLS WERE NOT CAUGHT)")
    return 0 if clean and holds else 1


if __name__ == "__main__":
    sys.exit(main())
