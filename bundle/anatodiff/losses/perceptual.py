"""How different two images, and their textures, look to a network that was trained to see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from anatodiff.losses.texture import texture_error
from anatodiff.weights import WeightsError, read_weights

# Convolutions of VGG-19 by their place in its list of layers; a pooling layer stands before the first of a block.
VGG19_LAYERS = {
    "conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10, "conv3_2": 12, "conv3_3": 14, "conv3_4": 16,
}  # fmt: skip
POOLED_BEFORE = ("conv2_1", "conv3_1")
BGR_MEAN = (103.939, 116.779, 123.68)  # of ImageNet, 0 to 255
RGB = 3


class PerceptualLoss(nn.Module):
    """Error of the feature maps of VGG-19, and of their texture, relative to the target's, mean over layers.

    MONAI's perceptual loss is not used: it loads its networks from the net and needs torchvision.

    Args:
        path: state dict of the convolutions with keys "0.weight" and so on; takes BGR of 0 to 255 less its mean.
        layers: convolutions whose rectified outputs are compared, out of `VGG19_LAYERS`.
        patch: side in pixels of the squares whose textures are compared (`texture_error`); 0 compares none.
        precision: what the convolutions compute in, e.g. torch.bfloat16; None: float32.

    Raises:
        WeightsError: the file is missing or lacks a layer.
        ValueError: a layer is unknown.

    References:
        Johnson et al., "Perceptual Losses for Real-Time Style Transfer", https://arxiv.org/abs/1603.08155
        Simonyan and Zisserman, "Very Deep Convolutional Networks", https://arxiv.org/abs/1409.1556
    """

    def __init__(
        self,
        path: str | Path,
        layers: Sequence[str] = ("conv1_2", "conv2_2"),
        patch: int = 0,
        precision: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        unknown = sorted(set(layers) - set(VGG19_LAYERS))
        if unknown or not layers:
            raise ValueError(f"perceptual_layers is {list(layers)}; choose out of {', '.join(VGG19_LAYERS)}")
        self.layers, self.patch, self.precision = tuple(layers), patch, precision
        deepest = max(VGG19_LAYERS[name] for name in layers)
        tensors = read_weights(Path(path), "the convolutions of VGG-19").tensors
        self.convolutions = nn.ModuleDict()
        for name, place in VGG19_LAYERS.items():
            if place > deepest:
                break
            if f"{place}.weight" not in tensors:
                raise WeightsError(
                    f"{path}: lacks {place}.weight ({name} of VGG-19); give perceptual_path its features"
                )
            weight = tensors[f"{place}.weight"].float()
            convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            convolution.load_state_dict({"weight": weight, "bias": tensors[f"{place}.bias"].float()})
            self.convolutions[name] = convolution
        self.mean: torch.Tensor
        self.register_buffer("mean", torch.tensor(BGR_MEAN).view(1, RGB, 1, 1))
        self.requires_grad_(False)

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the rectified feature maps of images (B, 1, H, W) at each layer asked for, (B, F, H', W') each."""
        x = (255 * images).expand(-1, RGB, -1, -1) - self.mean  # (B, 3, H, W)
        found = []
        for name, convolution in self.convolutions.items():
            if name in POOLED_BEFORE:
                x = nn.functional.max_pool2d(x, 2)  # (B, F, H/2, W/2)
            x = nn.functional.relu(convolution(x))  # (B, F, H', W')
            if name in self.layers:
                found.append(x)
        return found

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compare images with targets, both (B, 1, H, W) in [0, 1]; returns the scalars "perceptual" and "texture"."""
        with torch.autocast(input.device.type, dtype=self.precision, enabled=self.precision is not None):
            return {name: error.float() for name, error in self._errors(input, target).items()}

    def _errors(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            wanted = self.maps(target)
        pairs = list(zip(self.maps(input), wanted, strict=True))
        errors = [(mine - theirs).abs().mean() / theirs.abs().mean() for mine, theirs in pairs]
        found = {"perceptual": torch.stack(errors).mean()}
        if self.patch:
            scales = [theirs.shape[2] / target.shape[2] for _, theirs in pairs]  # 1, 1/2 or 1/4
            sides = [max(round(self.patch * scale), 1) for scale in scales]
            textures = [
                texture_error(*pair, min(side, *pair[0].shape[2:])) for pair, side in zip(pairs, sides, strict=True)
            ]
            found["texture"] = torch.stack(textures).mean()
        return found
