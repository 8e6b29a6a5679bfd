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
from anatodiff.diffusion.draws import normal
from anatodiff.losses import AnatoDiffLoss, DiffusionTarget, Prediction, TopologicalWassersteinLoss
from anatodiff.networks import build_anatodiff, load_adapter, load_base, trained_parameters

BATCH = 16
TIMES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)  # shares of the schedule's steps


def compare(first: list[torch.Tensor], second: list[torch.Tensor]) -> tuple[float, float]:
    """Return the ratio of the norms of two gradients, second to first, and the cosine between them."""
    a, b = (torch.cat([tensor.flatten() for tensor in gradient]) for gradient in (first, second))
    return float(b.norm() / a.norm()), float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def main(arguments: list[str] | None = None) -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True, help="radiographs")
    parser.add_argument("--cache_dir", type=Path, default=Path("output/cache"))
    parser.add_argument("--base_path", type=Path, help="without: the shipped one")
    parser.add_argument("--adapter_path", type=Path, help="fine-tuned network; without: the base at step 0")
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--topology_weight", type=float, default=2e-6, help="lambda")
    parser.add_argument("--batches", type=int, default=4, help=f"of {BATCH} images for each time")
    options = parser.parse_args(arguments)
    codec = load_autoencoder()
    base = load_base(options.base_path, codec)
    datalist = make_datalist(options.dataset_dir, test_fraction=0, max_images=BATCH * options.batches)
    latents = LatentDataset(datalist.train, options.image_size, options.cache_dir, codec)
    network = build_anatodiff(base, num_classes=len(datalist.classes))
    if options.adapter_path is not None:
        tuned = load_adapter(options.adapter_path, options.base_path, codec).network
        names = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        network = tuned.requires_grad_(False)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in names)
    trained = trained_parameters(network)
    schedule = base.diffusion.build()
    criterion = AnatoDiffLoss(schedule, TopologicalWassersteinLoss(reduction="none"), topology_weight=1.0)
    print(
        f"lambda {options.topology_weight:g}, prediction {base.diffusion.prediction}, {len(trained)} trained tensors\n"
    )
    print("| step | error | W1 | output: ratio | cosine | trained: ratio | cosine |\n|---|---|---|---|---|---|---|")
    for share in TIMES:
        rows = []
        for number, chosen in enumerate(torch.arange(len(latents)).split(BATCH)):
            z = latents.mean[chosen] * base.scale_factor  # (B, C, h, w)
            index = torch.full((len(z),), int(share * (len(schedule) - 1)))
            noise = normal(tuple(z.shape), 0, number, "gradient share")  # (B, C, h, w)
            noised = schedule.add_noise(z, noise, index)  # (B, C, h, w)
            output = network(noised, schedule.timesteps[index], class_labels=latents.labels[chosen])
            channels = torch.rand(z.shape[:2], generator=torch.Generator().manual_seed(number)).argsort(dim=1)
            target = DiffusionTarget(z, noise, index, channels)
            criterion(Prediction(output, noised), target)
            said = output[:, : z.shape[1]]  # (B, C, h, w)
            error = torch.nn.functional.mse_loss(said, schedule.target(z, noise, index))
            estimate, _ = schedule.split(noised, said, index)
            distance = criterion.topology(estimate, z, channels[:, :1]).mean() * options.topology_weight
            found = []
            for wanted in ([said], trained):
                gradients = [torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
                             for loss in (error, distance)]  # fmt: skip
                kept = [[g for g, h in zip(one, gradients[0], strict=True) if h is not None] for one in gradients]
                zeros = [[torch.zeros(1) if g is None else g for g in one] for one in kept]
                found += compare(*zeros)
            rows.append([float(error), criterion.parts["topology"], *found])
        mean = torch.tensor(rows).mean(dim=0).tolist()
        cells = " | ".join(f"{value:.3g}" for value in mean)
        print(f"| {int(share * (len(schedule) - 1))} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
