"""A picture of what the Shape Prototype Module looks at."""

from __future__ import annotations

from pathlib import Path

import torch

from anatodiff.engines.pictures import save_grid
from anatodiff.networks import DiT

SHOWN_PROTOTYPES = 7


@torch.no_grad()
def prototype_attention(
    network: DiT,
    x: torch.Tensor,
    timesteps: torch.Tensor,
    class_labels: torch.Tensor,
) -> torch.Tensor:
    """Run the network and keep how much each patch attends to each prototype (eq. 12, summed over its patches).

    Args:
        network: AnatoDiff with prototypes. With query "block" the last block's attention is kept.
        x: (B, C, h, w) noised latents.
        timesteps: (B,) times.
        class_labels: (B,) classes.

    Returns:
        (B, T, K), each row sums to 1.

    Raises:
        ValueError: the network has no prototypes.
    """
    shapes = network.shapes
    if shapes is None:
        raise ValueError("this network has no shape prototypes to attend to; train with n_prototypes above 0")
    queries: list[torch.Tensor] = []
    handle = shapes.register_forward_hook(lambda module, inputs, output: queries.append(inputs[0]))
    try:
        network(x, timesteps, class_labels=class_labels)
    finally:
        handle.remove()
    keys, _ = shapes.memory(network.prototype_tokens())  # (K*T, d)
    weights = shapes.attention(queries[-1], keys)  # (B, T, K*T)
    return weights.unflatten(2, (len(shapes.prototypes), -1)).sum(3)  # (B, T, K)


def draw_attention(path: Path, images: torch.Tensor, prototypes: torch.Tensor, attention: torch.Tensor) -> None:
    """Draw each image with the prototypes that it attends to most, and under each where it does.

    Args:
        path: PNG to write.
        images: (B, 1, H, W) in [0, 1].
        prototypes: (K, 1, H, W) in [0, 1].
        attention: (B, T, K) of `prototype_attention`.
    """
    side = round(attention.shape[1] ** 0.5)
    rows, titles = [], []
    for image, weights in zip(images, attention, strict=True):  # weights (T, K)
        shares = weights.mean(0)  # (K,)
        best = shares.argsort(descending=True)[:SHOWN_PROTOTYPES]
        maps = weights[:, best].T.reshape(-1, 1, side, side)  # (k, 1, h, w)
        # On one scale for all maps of an image, so that a strong one looks strong.
        maps = torch.nn.functional.interpolate(maps / maps.max(), size=image.shape[1:], mode="nearest")
        rows += [[image, *prototypes[best]], [torch.zeros_like(image), *maps]]
        percents = ", ".join(f"{100 * float(share):.0f} %" for share in shares[best])
        titles += [f"image, and its prototypes by share of the attention: {percents}", "where"]
    save_grid(path, rows, titles)
