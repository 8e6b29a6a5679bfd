"""LPIPS: how far apart two images look to a network, by its published weights; over pairs of one set, its diversity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from anatodiff.metrics.diversity import Diversity, mean_over_pairs
from anatodiff.weights import WeightsError, read_weights

__all__ = ["LPIPS", "lpips_diversity"]

# Convolutions of VGG-16 by their place in its list of layers. The last of each block is compared, then comes pooling.
VGG16_BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
PREFIX = "features."  # of torchvision's keys
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of RGB in [-1, 1]
EPSILON = 1e-10  # added to the length of a feature vector
RGB = 3
MIN_SIDE = 2 ** (len(VGG16_BLOCKS) - 1)  # pixels: the last block must see one
BATCH = 4  # pairs; the maps of one take some 70 MB at 256 x 256
PAIRS = 200  # each takes two passes of VGG-16, about a second on one core at 256 x 256


class LPIPS(nn.Module):
    """Distance of two images in the feature maps of VGG-16, each channel weighted as people saw it (version 0.1).

    The vectors of a map are brought to length 1 over channels; squared differences are weighted by channel, averaged
    over space and summed over the five layers. The package `lpips` is not used: it needs torchvision and the net.

    Args:
        network: state dict of VGG-16 with keys "features.0.weight" and so on, or without "features.".
        weights: state dict of the linear layers with keys "lin0.model.1.weight" to "lin4.model.1.weight".
        device: where to compute.

    Attributes:
        network_sha256: hash of the first file.
        weights_sha256: hash of the second file.

    Raises:
        WeightsError: a file is missing or lacks a layer, or the two do not fit.

    References:
        Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric, 2018,
        https://arxiv.org/abs/1801.03924, eq. 1.
    """

    def __init__(self, network: str | Path, weights: str | Path, device: str | torch.device = "cpu") -> None:
        super().__init__()
        convolutions = read_weights(network, "torchvision's VGG-16")
        linear = read_weights(weights, "the linear weights of LPIPS for VGG-16")
        self.network_sha256, self.weights_sha256 = convolutions.sha256, linear.sha256
        self.device = torch.device(device)
        self.blocks = nn.ModuleList()
        self.channels: list[torch.Tensor] = []
        before = RGB
        for number, places in enumerate(VGG16_BLOCKS):
            layers: list[nn.Module] = [] if number == 0 else [nn.MaxPool2d(2)]
            for place in places:
                convolution = _convolution(convolutions.tensors, place, before, network)
                layers += [convolution, nn.ReLU()]
                before = convolution.out_channels
            self.blocks.append(nn.Sequential(*layers))
            self.channels.append(_channel_weights(linear.tensors, number, before, weights).to(self.device))
        self.shift, self.scale = (torch.tensor(x, device=self.device).view(1, RGB, 1, 1) for x in (SHIFT, SCALE))
        self.requires_grad_(False).to(self.device)

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the feature maps of images (B, 1, H, W) in [0, 1], of length 1 over channels, (B, F, h, w) each."""
        x = (2 * images.to(self.device).float() - 1).expand(-1, RGB, -1, -1)  # (B, 3, H, W)
        x = (x - self.shift) / self.scale  # (B, 3, H, W)
        found = []
        for block in self.blocks:
            x = block(x)  # (B, F, h, w)
            found.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + EPSILON))
        return found

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Compare images with images.

        Args:
            first: (B, 1, H, W) in [0, 1], sides of at least 16 pixels.
            second: of the same shape.

        Returns:
            (B,) distances, 0 for equal images.

        Raises:
            ValueError: the shapes differ, or the images are too small or not grey.
        """
        shape = tuple(first.shape)
        if shape != tuple(second.shape) or len(shape) != 4 or shape[1] != 1 or min(shape[2:]) < MIN_SIDE:
            raise ValueError(
                f"images are {shape} and {tuple(second.shape)}; "
                f"give both as (B, 1, H, W) with sides of at least {MIN_SIDE} pixels"
            )
        distance = torch.zeros(len(first), device=self.device)  # (B,)
        for mine, theirs, weight in zip(self.maps(first), self.maps(second), self.channels, strict=True):
            error = (mine - theirs).square().mean(dim=(2, 3))  # (B, F)
            distance = distance + error @ weight  # (B,)
        return distance


def lpips_diversity(network: LPIPS, images: torch.Tensor, pairs: int = PAIRS, seed: int = 0) -> Diversity:
    """Average LPIPS over random pairs of one set; higher is more diverse.

    Compare it with that of as many real images: both a higher and a lower one is a difference.

    Args:
        network: computes the distance.
        images: (N, 1, H, W) in [0, 1], N >= 3, sides of at least 16 pixels.
        pairs: most pairs to compare; all of them where there are fewer.
        seed: of the choice.

    Returns:
        the mean and its standard error.

    Raises:
        ValueError: too few or too small images.
    """

    @torch.inference_mode()
    def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return network(images[first], images[second]).cpu().double().numpy()

    return mean_over_pairs(distances, len(images), pairs, seed, BATCH)


def _convolution(tensors: dict[str, torch.Tensor], place: int, before: int, path: str | Path) -> nn.Conv2d:
    found = {}
    for part in ("weight", "bias"):
        key = f"{place}.{part}"
        tensor = tensors.get(PREFIX + key, tensors.get(key))
        if tensor is None:
            raise WeightsError(
                f"{path}: lacks {PREFIX}{key}; give lpips_network the state dict of torchvision's VGG-16"
            )
        found[part] = tensor
    after = len(found["weight"])
    expected = {"weight": (after, before, 3, 3), "bias": (after,)}
    for part, tensor in found.items():
        if tuple(tensor.shape) != expected[part]:
            raise WeightsError(
                f"{path}: {PREFIX}{place}.{part} is {tuple(tensor.shape)}, not {expected[part]}; "
                "give lpips_network the state dict of torchvision's VGG-16"
            )
    convolution = nn.Conv2d(before, after, 3, padding=1)
    convolution.load_state_dict(found)
    return convolution


def _channel_weights(tensors: dict[str, torch.Tensor], number: int, channels: int, path: str | Path) -> torch.Tensor:
    key = f"lin{number}.model.1.weight"
    cure = "give lpips_weights the linear layers of LPIPS 0.1 for VGG-16"
    if key not in tensors:
        raise WeightsError(f"{path}: lacks {key}; {cure}")
    if tuple(tensors[key].shape) != (1, channels, 1, 1):
        raise WeightsError(f"{path}: {key} is {tuple(tensors[key].shape)}, not {(1, channels, 1, 1)}; {cure}")
    return tensors[key].flatten()  # (F,)
