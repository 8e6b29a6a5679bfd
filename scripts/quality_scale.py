"""Known points of the scale in which distances are given: what noise, blur or another population cost on real images.

    python scripts/quality_scale.py --dataset_dir /data/xrays [--other_dir /data/adults] [--autoencoder_path FILE]

Prints a table for docs/quality_scale.md. One half of the patients is the reference, the other half is changed.
Alternation is how far grain follows a raster of 2 or 8 pixels (`anatodiff.losses.texture.alternation`). Reconstructions
from damaged latents show what the decoder makes of latents that no encoder made, as a diffusion model's are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from monai.metrics import PSNRMetric
from monai.transforms import GaussianSmooth

from anatodiff.autoencoders import ImageDataset, LatentCodec, load_autoencoder
from anatodiff.data import make_datalist
from anatodiff.diffusion import normal
from anatodiff.engines.latent_damage import Damage, DamagedInferer
from anatodiff.losses.texture import alternation
from anatodiff.metrics import FeatureNetwork, ShippedFeatures, frechet_distance, kernel_distance

NOISE = 8 / 255  # standard deviation, grey levels
BLUR = 1.5  # standard deviation, pixels at the size of the images
BATCH = 16
NOISED, SMOOTHED = 0.2, 0.6  # levels of latents' damage, in standard deviations of the latents

Change = Callable[[torch.Tensor], torch.Tensor]


def noised(images: torch.Tensor) -> torch.Tensor:
    """Add noise and go back to 8 bits, as a file would."""
    noise = normal(tuple(images.shape), 0, 0, "quality scale")
    return ((images + NOISE * noise).clamp(0, 1) * 255).round() / 255  # (N, 1, H, W)


def blurred(images: torch.Tensor) -> torch.Tensor:
    """Smooth each image."""
    smooth = GaussianSmooth(sigma=BLUR, approx="sampled")
    return torch.stack([torch.as_tensor(smooth(image)) for image in images])  # (N, 1, H, W)


@torch.no_grad()
def latents(images: torch.Tensor, autoencoder: LatentCodec) -> torch.Tensor:
    """Encode each image to the mean of its latent."""
    return torch.cat([autoencoder.encode(batch)[0] for batch in images.split(BATCH)])  # (N, C, h, w)


@torch.no_grad()
def decoded(z: torch.Tensor, autoencoder: LatentCodec) -> torch.Tensor:
    """Decode latents (N, C, h, w)."""
    return torch.cat([autoencoder.decode(batch) for batch in z.split(BATCH)])  # (N, 1, H, W)


def damaged(z: torch.Tensor, level: float, smooth: bool, inferer: DamagedInferer) -> torch.Tensor:
    """Noise latents (N, C, h, w) by a level, and filter the noise out again where they shall be smooth."""
    noise = normal(tuple(z.shape), 0, 0, "quality scale latents")
    return inferer.damaged(z, Damage(torch.tensor(level), torch.tensor(smooth), noise))


def psnr(images: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the mean over images (N, 1, H, W) of their peak signal-to-noise ratio, dB."""
    return float(PSNRMetric(max_val=1.0)(images, wanted).mean())


def row(name: str, reference: torch.Tensor, images: torch.Tensor, features: FeatureNetwork) -> str:
    """Measure images against the reference's features and lay out one row."""
    found = features(images)  # (N, D)
    distance = kernel_distance(reference, found)
    kid, error = 1e3 * distance.value, 1e3 * distance.stderr
    raster = " / ".join(f"{100 * alternation(images, period):.1f}" for period in (2, 8))
    return f"| {name} | {len(images)} | {frechet_distance(reference, found):.1f} | {kid:.1f} ± {error:.1f} | {raster} |"


def main() -> None:
    """Print the table for the folders that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of real radiographs")
    parser.add_argument("--other_dir", type=Path, help="folder of another population")
    parser.add_argument("--autoencoder_path", type=Path, help="autoencoder whose reconstructions are measured too")
    parser.add_argument("--cache_dir", type=Path, default=Path("output/cache"))
    parser.add_argument("--image_size", type=int, default=256)
    options = parser.parse_args()

    def images_of(items: list[dict]) -> torch.Tensor:
        return ImageDataset(items, options.image_size, options.cache_dir).images.float()  # (N, 1, H, W)

    datalist = make_datalist(options.dataset_dir, test_fraction=0.5)
    half, other_half = images_of(datalist.train), images_of(datalist.test)
    features = ShippedFeatures()
    reference = features(half)  # (N, D)
    autoencoder = load_autoencoder(options.autoencoder_path)
    print("| against one half of the patients | n | FD | KD x 1000 | alternation 2 / 8, % |")
    print("| --- | --- | --- | --- | --- |")
    print(row("the other half", reference, other_half, features))
    print(row("the other half, noise of 8 grey levels", reference, noised(other_half), features))
    print(row("the other half, blurred by 1.5 pixels", reference, blurred(other_half), features))
    z, inferer = latents(other_half, autoencoder), DamagedInferer(autoencoder, half, crop_size=0)
    for source, changed in (
        ("", z),
        (f" from latents noised at {NOISED}", damaged(z, NOISED, False, inferer)),
        (f" from latents smoothed at {SMOOTHED}", damaged(z, SMOOTHED, True, inferer)),
    ):
        again = decoded(changed, autoencoder)
        name = f"the other half, reconstructed{source} ({psnr(again, other_half):.2f} dB)"
        print(row(name, reference, again, features))
    if options.other_dir is not None:
        everyone = make_datalist(options.other_dir, test_fraction=0.5)
        print(row("another population", reference, images_of(everyone.train + everyone.test), features))


if __name__ == "__main__":
    main()
