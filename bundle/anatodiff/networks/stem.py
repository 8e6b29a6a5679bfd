"""The convolutional stem and head around the tokens of a DiT.

A linear patch embedding leaves each token alone with its square of the latent, and the squares' borders show in the
samples. Between the latent and the tokens stand residual convolutional blocks at falling resolution, and between the
tokens and the output the same at rising resolution, with skip connections of each level.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from anatodiff.networks.layers import per_patch
from anatodiff.networks.low_rank import ConvLowRank

GROUPS = 8  # of every group normalisation
KERNEL = 3


class TunedConv2d(nn.Conv2d):
    """A convolution of unchanged size with the two places where a fine-tune enters: y = gamma (W x + b + scale B A x).

    Both are absent until `set_finetuning` adds one.

    Args:
        in_channels: channels of x.
        out_channels: channels of y.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, KERNEL, padding=KERNEL // 2)
        self.gamma: nn.Parameter | None
        self.register_parameter("gamma", None)
        self.low_rank: ConvLowRank | None = None

    def add_gamma(self) -> None:
        """Add a scale of 1 for each output channel; the output stays as it is."""
        self.gamma = nn.Parameter(torch.ones(self.out_channels, device=self.weight.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve; x (B, C, h, w) -> (B, out_channels, h, w)."""
        # Channels last is the faster layout, and one layout for all makes a resumed run round as an undisturbed one.
        weight = self.weight.contiguous(memory_format=torch.channels_last)
        y = F.conv2d(x, weight, self.bias, padding=self.padding)  # (B, out_channels, h, w)
        if self.low_rank is not None:
            y = y + self.low_rank(x)  # (B, out_channels, h, w)
        if self.gamma is not None:
            y = self.gamma[:, None, None] * y  # (B, out_channels, h, w)
        return y


class ConvBlock(nn.Module):
    """A residual block of two convolutions, modulated by time and class: h + gamma conv(silu(norm(h') (1 + s) + t)).

    The modulation and the last convolution start at zero, so that the block starts as its shortcut.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; both are multiples of 8.
        hidden_size: width D of the embedding of time and class.
    """

    def __init__(self, in_channels: int, out_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, in_channels)
        self.conv1 = TunedConv2d(in_channels, out_channels)
        self.norm2 = nn.GroupNorm(GROUPS, out_channels)
        self.conv2 = TunedConv2d(out_channels, out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * out_channels))
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        self.gamma: nn.Parameter | None
        self.register_parameter("gamma", None)  # DiffFit's scale of the block, absent in a base

    def add_gamma(self) -> None:
        """Add a scale of 1 for each output channel; the output stays as it is."""
        self.gamma = nn.Parameter(torch.ones(self.conv2.out_channels, device=self.conv2.weight.device))

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Apply the block.

        Args:
            x: (B, C, h, w) features.
            c: (B, D) embedding of time and class, or (B, T, D) one for each token.

        Returns:
            (B, out_channels, h, w).
        """
        h = self.conv1(F.silu(self.norm1(x)))  # (B, C', h, w)
        shift, scale = per_pixel(self.adaLN_modulation(c), h.shape[2]).chunk(2, dim=1)  # 2 x (B, C', 1 or h, 1 or w)
        h = self.conv2(F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale)))  # (B, C', h, w)
        if self.gamma is not None:
            h = self.gamma[:, None, None] * h  # (B, C', h, w)
        return self.shortcut(x) + h  # (B, C', h, w)


def per_pixel(modulation: torch.Tensor, side: int) -> torch.Tensor:
    """Shape a modulation for maps: (B, N) for the whole image to (B, N, 1, 1), (B, T, N) for tokens to (B, N, h, h)."""
    maps = per_patch(modulation).transpose(1, 2)  # (B, N, 1 or T)
    grid = int(math.sqrt(maps.shape[2]))
    maps = maps.reshape(maps.shape[0], maps.shape[1], grid, grid)  # (B, N, 1 or grid, 1 or grid)
    return maps if grid == 1 else F.interpolate(maps, size=(side, side), mode="nearest")  # (B, N, h, h)


class StemLevel(nn.Module):
    """Blocks at one resolution on the way to the tokens, after the step down from the finer level.

    Args:
        before: channels of the finer level; None: this one is the finest.
        channels: channels of this level.
        blocks: number of blocks.
        hidden_size: width D of the embedding of time and class.
    """

    def __init__(self, before: int | None, channels: int, blocks: int, hidden_size: int) -> None:
        super().__init__()
        self.down = nn.Identity() if before is None else nn.Conv2d(before, channels, 2, stride=2)
        self.blocks = nn.ModuleList([ConvBlock(channels, channels, hidden_size) for _ in range(blocks)])

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Apply the level; x (B, C', 2 h, 2 w), or (B, C, h, w) at the finest level -> (B, C, h, w)."""
        x = self.down(x)  # (B, C, h, w)
        for block in self.blocks:
            x = block(x, c)  # (B, C, h, w)
        return x


class ConvStem(nn.Module):
    """Latents to feature maps of falling resolution; the last one is cut into tokens.

    Args:
        in_channels: channels of the latent.
        channels: channels of the levels, the finest first; multiples of 8.
        blocks: residual blocks of each level.
        hidden_size: width D of the embedding of time and class.
    """

    def __init__(self, in_channels: int, channels: list[int], blocks: int, hidden_size: int) -> None:
        super().__init__()
        self.input = TunedConv2d(in_channels, channels[0])
        befores: list[int | None] = [None, *channels[:-1]]
        self.levels = nn.ModuleList(
            [StemLevel(before, own, blocks, hidden_size) for before, own in zip(befores, channels, strict=True)]
        )

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the first features; x (B, C, h, w) latents -> (B, channels[0], h, w)."""
        return self.input(x.contiguous(memory_format=torch.channels_last))

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> list[torch.Tensor]:
        """Compute the features of each level.

        Args:
            x: (B, channels[0], h, w) first features, with the spatial conditions in them.
            c: (B, D) embedding of time and class, or (B, T, D) one for each token.

        Returns:
            (B, channels[i], h / 2^i, w / 2^i) for each level i.
        """
        features: list[torch.Tensor] = []
        for level in self.levels:
            x = level(x, c)
            features.append(x)
        return features


class HeadLevel(nn.Module):
    """Blocks at one resolution on the way to the output, before the step up to the finer level.

    Args:
        channels: channels of this level.
        after: channels of the finer level; None: this one is the finest.
        blocks: number of blocks; the first joins the level's skip connection.
        hidden_size: width D of the embedding of time and class.
    """

    def __init__(self, channels: int, after: int | None, blocks: int, hidden_size: int) -> None:
        super().__init__()
        inputs = [2 * channels] + [channels] * (blocks - 1)
        self.blocks = nn.ModuleList([ConvBlock(size, channels, hidden_size) for size in inputs])
        step = None if after is None else nn.Sequential(nn.Conv2d(channels, 4 * after, 1), nn.PixelShuffle(2))
        self.up = nn.Identity() if step is None else step

    def forward(self, x: torch.Tensor, skip: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Apply the level; x and skip (B, C, h, w) -> (B, C', 2 h, 2 w), or (B, C, h, w) at the finest level."""
        x = torch.cat([x, skip], dim=1)  # (B, 2 C, h, w)
        for block in self.blocks:
            x = block(x, c)  # (B, C, h, w)
        return self.up(x)


class ConvHead(nn.Module):
    """Feature maps of rising resolution, from the tokens' map to the output.

    Args:
        channels: channels of the levels, the finest first; multiples of 8.
        blocks: residual blocks of each level.
        hidden_size: width D of the embedding of time and class.
        out_channels: channels of the output.
    """

    def __init__(self, channels: list[int], blocks: int, hidden_size: int, out_channels: int) -> None:
        super().__init__()
        afters: list[int | None] = [None, *channels[:-1]]
        levels = [HeadLevel(own, after, blocks, hidden_size) for own, after in zip(channels, afters, strict=True)]
        self.levels = nn.ModuleList(levels[::-1])
        self.norm = nn.GroupNorm(GROUPS, channels[0])
        self.output = TunedConv2d(channels[0], out_channels)

    def forward(self, x: torch.Tensor, skips: list[torch.Tensor], c: torch.Tensor) -> torch.Tensor:
        """Compute the output.

        Args:
            x: (B, channels[-1], h', w') map of the tokens.
            skips: features of the stem's levels, the finest first.
            c: (B, D) embedding of time and class, or (B, T, D) one for each token.

        Returns:
            (B, out_channels, h, w).
        """
        for number, level in enumerate(self.levels):
            skip = skips[len(skips) - 1 - number]
            x = level(x.contiguous(memory_format=torch.channels_last), skip, c)
        x = x.contiguous(memory_format=torch.channels_last)  # (B, channels[0], h, w)
        return self.output(F.silu(self.norm(x)))  # (B, out_channels, h, w)


def check_stem(stem: Mapping[str, Any], patch_size: int) -> dict[str, Any]:
    """Check the settings of a convolutional stem and head.

    Args:
        stem: "channels" of the levels, the finest first, and "blocks" at each level and in each direction.
        patch_size: of the DiT, in pixels of the latent: the levels halve the resolution, the tokens are cut from the
            last one.

    Returns:
        the settings as plain values.

    Raises:
        ValueError: an entry is not one of these or out of range.
    """
    if set(stem) != {"channels", "blocks"}:
        raise ValueError(f"stem has the entries {sorted(stem)}; give channels and blocks")
    channels, blocks = [int(size) for size in stem["channels"]], int(stem["blocks"])
    if not channels or min(channels) < GROUPS or any(size % GROUPS for size in channels):
        raise ValueError(f"stem's channels are {channels}; give one multiple of {GROUPS} for each level")
    if blocks < 1:
        raise ValueError(f"stem's blocks is {blocks}; give at least 1")
    if patch_size % 2 ** (len(channels) - 1):
        raise ValueError(
            f"patch_size {patch_size} cannot be halved {len(channels) - 1} times; give the stem fewer channels"
        )
    return {"channels": channels, "blocks": blocks}


def conv_blocks(network: nn.Module) -> list[ConvBlock]:
    """List the convolutional blocks of a network, in their fixed order; empty for a DiT without a stem."""
    return [cast(ConvBlock, module) for module in network.modules() if isinstance(module, ConvBlock)]
