"""Time the anatomical loss, forward and backward: gudhi + POT, gudhi + SciPy, compiled; and its share of a step.

All paths take turns in one run, and ratios are medians over the rounds, so that a busy machine slows all of them.
Needs the extra `test` (POT). The data are latents of phantoms under the shipped weights.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import gudhi
import numpy as np
import torch
from gudhi.wasserstein import wasserstein_distance

from anatodiff.autoencoders import LatentCodec, load_autoencoder
from anatodiff.data.phantom import ALL_CLASSES, make_phantom, plan_phantoms
from anatodiff.losses import AnatoDiffLoss, DiffusionTarget, Prediction, TopologicalWassersteinLoss
from anatodiff.losses.topology import library
from anatodiff.networks import Base, build_anatodiff, load_base, trained_parameters

BATCH = 16
PATHS = ("gudhi + POT", "gudhi + SciPy", "compiled")


def latents(codec: LatentCodec, base: Base, image_size: int) -> torch.Tensor:
    """Scaled latents of BATCH phantoms, (B, C, image_size / 8, image_size / 8)."""
    plan = plan_phantoms(BATCH, ALL_CLASSES, seed=0)
    pixels = [make_phantom(one.seed, one.label, image_size, one.view).pixels for one in plan]
    mean, logvar = codec.encode(torch.from_numpy(np.stack(pixels))[:, None])  # (B, C, h, w)
    return (mean + (0.5 * logvar).exp() * torch.randn_like(mean)).detach() * base.scale_factor


def naive(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss as the libraries' own examples build it, on (N, 1, H, W): L1 ground norm, H0 and H1, minima."""
    total = torch.zeros(())
    for image, target in zip(images[:, 0], targets[:, 0], strict=True):
        (mine, lowest), (others, other_lowest) = (_cofaces(x.detach().numpy()) for x in (image, target))
        flat, other_flat = image.T.flatten(), target.T.flatten()  # gudhi counts pixels in Fortran's order
        for a, b in zip(mine, others, strict=True):
            points, wanted = (x[torch.from_numpy(pixels)] for x, pixels in ((flat, a), (other_flat, b)))
            points, wanted = (x[x[:, 1] > x[:, 0]] for x in (points, wanted))
            _, pairs = wasserstein_distance(
                points.detach().numpy(), wanted.numpy(), matching=True, order=1, internal_p=1
            )
            both = pairs[(pairs >= 0).all(axis=1)]
            lone, other_lone = points[pairs[pairs[:, 1] < 0, 0]], wanted[pairs[pairs[:, 0] < 0, 1]]
            total = total + (points[both[:, 0]] - wanted[both[:, 1]]).abs().sum()
            total = total + (lone[:, 1] - lone[:, 0]).sum() + (other_lone[:, 1] - other_lone[:, 0]).sum()
        total = total + (flat[lowest] - other_flat[other_lowest]).abs()
    return total


def _cofaces(image: np.ndarray) -> tuple[list[np.ndarray], int]:
    complex_ = gudhi.CubicalComplex(top_dimensional_cells=image)
    complex_.compute_persistence()
    regular, essential = complex_.cofaces_of_persistence_pairs()
    found = [np.asarray(pairs).reshape(-1, 2) for pairs in regular] + [np.empty((0, 2), int)] * 2
    return found[:2], int(essential[0][0])


def bench(name: str, images: torch.Tensor, targets: torch.Tensor, rounds: int) -> None:
    """Time all paths on (B, C, H, W), all channels, and print one row."""
    fused = TopologicalWassersteinLoss(channels="all", reduction="sum")
    libraries = TopologicalWassersteinLoss(channels="all", reduction="sum")
    libraries.__dict__["_compare_images"] = library.compare  # as where numba is missing
    losses: tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], ...] = (
        lambda x, y: naive(x.reshape(-1, 1, *x.shape[2:]), y.reshape(-1, 1, *y.shape[2:])),
        libraries,
        fused,
    )
    seconds: list[list[float]] = [[] for _ in losses]
    values = [0.0] * len(losses)
    for turn in range(rounds + 1):
        for path, loss in enumerate(losses):
            x = images.clone().requires_grad_()
            start = time.perf_counter()
            value = loss(x, targets)
            value.backward()
            seconds[path].append(time.perf_counter() - start)
            values[path] = value.item()
            if turn == 0:
                seconds[path].clear()  # the first round warms up
    if not np.allclose(values, values[0], rtol=1e-4):
        raise SystemExit(f"{name}: the paths disagree: {dict(zip(PATHS, values, strict=True))}")
    ratios = [median(a / b for a, b in zip(seconds[path], seconds[2], strict=True)) for path in (0, 1)]
    times = " | ".join(f"{1000 * median(path):.1f}" for path in seconds)
    print(f"| {name} | {times} | {ratios[0]:.1f} | {ratios[1]:.1f} |", flush=True)


def share_of_a_step(base: Base, z: torch.Tensor, rounds: int, **settings: Any) -> tuple[float, float]:
    """Train the shipped base for some steps; returns a step's milliseconds and the loss's part of them."""
    schedule = base.diffusion.build()
    network = build_anatodiff(base, num_classes=2, prototypes=z[:BATCH])
    optimizer = torch.optim.AdamW(trained_parameters(network), lr=1e-4)
    topology = TopologicalWassersteinLoss(reduction="none", **settings)
    criterion = AnatoDiffLoss(schedule, topology)
    steps, parts = [], []
    for _ in range(rounds + 1):
        index = schedule.draw(torch.rand(BATCH, dtype=torch.float64))
        noise, labels = torch.randn_like(z), torch.randint(2, (BATCH,))
        channels = torch.rand(BATCH, z.shape[1]).argsort(dim=1)
        start = time.perf_counter()
        noised = schedule.add_noise(z, noise, index)
        output = network(noised, schedule.times(index), class_labels=labels)
        loss = criterion(Prediction(output, noised), DiffusionTarget(z, noise, index, channels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps.append(time.perf_counter() - start)
        said = output.detach()[:, : z.shape[1]].requires_grad_()
        start = time.perf_counter()
        estimate, _ = schedule.split(noised, said, index)
        chosen = channels[:, : topology.n_random] if topology.channels == "random" else None
        topology(estimate, z, chosen).sum().backward()
        parts.append(time.perf_counter() - start)
    return 1000 * median(steps[1:]), 100 * median(a / b for a, b in zip(parts[1:], steps[1:], strict=True))


def main() -> None:
    """Time all regimes and the share of a training step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=7, help="rounds of each regime; five times as many training steps"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch, and so of the compiled path")
    parser.add_argument("--step_threads", type=int, default=2, help="threads while a training step is timed")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # POT divides by zero on empty diagrams
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    codec = load_autoencoder()
    base = load_base(None, codec, None)
    z, large = latents(codec, base, 256), latents(codec, base, 512)
    # One random channel of each image, as in training; the first is the roughest.
    one, large_one = (x[torch.arange(BATCH), torch.randint(x.shape[1], (BATCH,))][:, None] for x in (z, large))
    many = one.repeat(256 // BATCH, 1, 1, 1)  # (256, 1, 32, 32)
    print(f"milliseconds of a batch of {BATCH}, forward and backward; {options.threads} thread(s)\n")
    print(f"| regime | {' | '.join(PATHS)} | POT / compiled | SciPy / compiled |\n|---|---|---|---|---|---|")
    for error in (0.05, 0.2, 1.0):
        bench(f"32 x 32, error {error}", one + error * torch.randn_like(one), one, options.rounds)
    bench("32 x 32, error 0.2, roughest channel", z[:, :1] + 0.2 * torch.randn_like(one), z[:, :1], options.rounds)
    bench("32 x 32, two white noises", torch.randn_like(one), torch.randn_like(one), options.rounds)
    noise = torch.randn_like(one)
    bench("32 x 32, white noise, error 0.2", noise + 0.2 * torch.randn_like(one), noise, options.rounds)
    bench("64 x 64, error 0.2", large_one + 0.2 * torch.randn_like(large_one), large_one, max(options.rounds // 3, 2))
    bench("32 x 32, error 0.2, batch 256", many + 0.2 * torch.randn_like(many), many, max(options.rounds // 3, 2))
    bench("32 x 32, error 0.2, 4 channels", z + 0.2 * torch.randn_like(z), z, max(options.rounds // 2, 2))
    torch.set_num_threads(options.step_threads)
    for name, settings in (("one random channel", {}), ("all four channels", {"channels": "all"})):
        step, share = share_of_a_step(base, z, 5 * options.rounds, **settings)
        print(f"\na training step of the shipped base takes {step:.0f} ms on {options.step_threads} thread(s);")
        print(f"the loss on {name} is {share:.2f} % of it")


if __name__ == "__main__":
    main()
