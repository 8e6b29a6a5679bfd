"""EfficientNet-Lite0 without its classifier: the network of features that ships with the bundle.

Own code after Tan and Le, "EfficientNet", https://arxiv.org/abs/1905.11946, and the Lite variant of its authors (no
squeeze-and-excitation, ReLU6). Normalisations are folded into the convolutions before them.
"""

from __future__ import annotations

import torch
from torch import nn

from anatodiff.weights import Weights

SHIPPED_NAME = "features.safetensors"
FEATURES = 1280
# (blocks, kernel, stride of the first, expansion, channels) of each stage, Tan and Le table 1.
STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
STEM = 32
NORM_EPSILON = 1e-3  # of the batch normalisations that were folded away


class SamePadConv(nn.Conv2d):
    """A convolution padded as TensorFlow does: where the padding is odd, the end gets one more."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve; x (B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        pads = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in (x.shape[3], x.shape[2])]
        x = nn.functional.pad(x, (pads[0] // 2, -(-pads[0] // 2), pads[1] // 2, -(-pads[1] // 2)))
        return super().forward(x)  # (B, C', H', W')


class InvertedBottleneck(nn.Module):
    """Widen, convolve each channel by itself, narrow; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = SamePadConv(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = SamePadConv(wide, wide, kernel, stride, groups=wide)
        self.project = SamePadConv(wide, outputs, 1)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block; x (B, C, H, W) -> (B, C', H', W')."""
        y = x if self.expand is None else nn.functional.relu6(self.expand(x))  # (B, wide, H, W)
        y = self.project(nn.functional.relu6(self.depthwise(y)))  # (B, C', H', W')
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """Images in, 1,280 features out: the last feature maps averaged over space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SamePadConv(3, STEM, 3, stride=2)
        blocks, inputs = [], STEM
        for count, kernel, stride, expansion, outputs in STAGES:
            for i in range(count):
                blocks.append(InvertedBottleneck(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = SamePadConv(inputs, FEATURES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Describe; x (B, 3, 224, 224), (pixels of 0 to 255 - 127) / 128 -> (B, 1280)."""
        x = self.blocks(nn.functional.relu6(self.stem(x)))  # (B, 320, 7, 7)
        return nn.functional.relu6(self.head(x)).mean((2, 3))  # (B, 1280)


def from_published(weights: Weights) -> EfficientNetLite0:
    """Fold the published state dict (convolutions and batch normalisations) into the network.

    Args:
        weights: of the published efficientnet-lite0 file, read by `read_weights`.

    Returns:
        the network in evaluation mode.
    """
    network, tensors = EfficientNetLite0(), weights.tensors

    def fold(conv: nn.Conv2d, name: str, norm: str) -> None:
        scale = tensors[f"{norm}.weight"].double() / (tensors[f"{norm}.running_var"].double() + NORM_EPSILON).sqrt()
        bias = tensors[f"{norm}.bias"].double() - tensors[f"{norm}.running_mean"].double() * scale
        conv.weight.data = (tensors[f"{name}.weight"].double() * scale[:, None, None, None]).float()
        conv.bias = nn.Parameter(bias.float())

    fold(network.stem, "_conv_stem", "_bn0")
    for i, module in enumerate(network.blocks):
        assert isinstance(module, InvertedBottleneck)
        if module.expand is not None:
            fold(module.expand, f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0")
        fold(module.depthwise, f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1")
        fold(module.project, f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2")
    fold(network.head, "_conv_head", "_bn1")
    return network.eval().requires_grad_(False)
