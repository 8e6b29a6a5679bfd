"""How much of the gradient is the anatomical loss's? By time step, for a base or a fine-tuned network.

    python scripts/gradient_share.py --dataset_dir /data/xrays [--adapter_path output/train/adapter.safetensors]

For batches of one time step each, the gradients of the prediction error and of lambda times the Wasserstein distance
are taken with respect to the network's output and to what DiffFit trains, and the ratio of their norms is printed.
With them the cosine of the angle between both: 0 where they have nothing to do with each other.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from anatodiff.autoencoders import LatentDataset, load_autoencoder
from anatodiff.data import make_datalist
from anatodiff.diffusion import NoiseSchedule
from anatodiff.diffusion.draws import normal, uniform_each
from anatodiff.losses import TopologicalWassersteinLoss
from anatodiff.networks import DiT, build_anatodiff, load_adapter, load_base, trained_parameters

BATCH = 16
TIMES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)  # shares of a training's images that have less noise
HEAD = "| less noise | error | W1 | output: ratio | cosine | trained: ratio | cosine |\n|---|---|---|---|---|---|---|"


def compare(first: list[torch.Tensor], second: list[torch.Tensor]) -> tuple[float, float]:
    """Return the ratio of the norms of two gradients, second to first, and the cosine between them."""
    a, b = (torch.cat([tensor.flatten() for tensor in gradient]) for gradient in (first, second))
    return float(b.norm() / a.norm()), float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def gradients(loss: torch.Tensor, wanted: list[torch.Tensor]) -> list[torch.Tensor]:
    """Take the gradient of a loss; zeros for what it does not depend on."""
    return list(torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True, materialize_grads=True))


def shares(
    network: DiT,
    schedule: NoiseSchedule,
    x0: torch.Tensor,
    labels: torch.Tensor,
    time: float,
    weight: float,
    number: int = 0,
) -> list[float]:
    """Compare both losses on one batch.

    Args:
        network: its parameters that need a gradient are what is trained.
        schedule: noise schedule.
        x0: (B, C, h, w) clean scaled latents.
        labels: (B,) classes.
        time: noise level, as the share of a training's images that have less noise, in [0, 1).
        weight: lambda.
        number: of the batch, for its draws.

    Returns:
        prediction error, W1, and ratio and cosine of the gradients at the output and at what is trained.
    """
    index = schedule.draw(torch.full((len(x0),), time, dtype=torch.float64))  # (B,)
    noise = normal(tuple(x0.shape), 0, number, "gradient share")  # (B, C, h, w)
    noised = schedule.add_noise(x0, noise, index)  # (B, C, h, w)
    said = network(noised, schedule.times(index), class_labels=labels)[:, : x0.shape[1]]  # (B, C, h, w)
    error = torch.nn.functional.mse_loss(said, schedule.target(x0, noise, index))
    at = torch.arange(len(x0)) + number * len(x0)  # (B,)
    channel = (uniform_each(0, at, "gradient share") * x0.shape[1]).long()  # (B,)
    estimate, _ = schedule.split(noised, said, index)  # (B, C, h, w)
    distance = TopologicalWassersteinLoss()(estimate, x0, channel)
    found = [float(error.detach()), float(distance.detach())]
    for wanted in ([said], list(trained_parameters(network))):
        found += compare(gradients(error, wanted), gradients(weight * distance, wanted))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True, help="radiographs")
    parser.add_argument("--cache_dir", type=Path, default=Path("output/cache"))
    parser.add_argument("--autoencoder_path", type=Path, help="without: the shipped one")
    parser.add_argument("--base_path", type=Path, help="without: the shipped one")
    parser.add_argument("--adapter_path", type=Path, help="fine-tuned network; without: the base at step 0")
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--topology_weight", type=float, default=2e-6, help="lambda")
    parser.add_argument("--batches", type=int, default=4, help=f"of {BATCH} images for each time")
    options = parser.parse_args(arguments)
    codec = load_autoencoder(options.autoencoder_path)
    base = load_base(options.base_path, codec)
    datalist = make_datalist(options.dataset_dir, test_fraction=0, max_images=BATCH * options.batches)
    latents = LatentDataset(datalist.train, options.image_size, options.cache_dir, codec)
    network = build_anatodiff(base, num_classes=len(datalist.classes))
    if options.adapter_path is not None:
        tuned = load_adapter(options.adapter_path, options.base_path, codec).network
        for name, parameter in network.named_parameters():
            tuned.get_parameter(name).requires_grad_(parameter.requires_grad)
        network = tuned
    schedule = base.diffusion.build()
    print(f"lambda {options.topology_weight:g}, prediction {base.diffusion.prediction}\n\n{HEAD}")
    for time in TIMES:
        rows = [
            shares(network, schedule, latents.mean[rows] * base.scale_factor, latents.labels[rows], time,
                   options.topology_weight, number)
            for number, rows in enumerate(torch.arange(len(latents)).split(BATCH))
        ]  # fmt: skip
        cells = " | ".join(f"{value:.3g}" for value in torch.tensor(rows).mean(dim=0).tolist())
        print(f"| {time:g} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
