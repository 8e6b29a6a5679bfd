"""The autoencoder that ships: principal components of patches, and a convolutional correction of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from anatodiff.autoencoders.codec import LatentCodec
from anatodiff.draws import generator

PATCH = 8  # pixels per latent pixel, along each side
FOLD = 4  # pixels per side that the finer convolutions see as channels
FIRST_LOGVAR = -8.0  # a posterior so narrow that it costs nothing at first
FIT_BATCH = 64
ENCODER_PARTS = ("project", "encoder", "correct")
TILE = 256  # pixels per side of the noise map, repeated over larger images


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity; the second starts at zero, so the block starts as the identity.

    Without normalisation on purpose: it would take away how bright a region is, which a radiograph is about.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = _zero(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Correct features (B, C, h, w)."""
        return x + self.conv2(nn.functional.silu(self.conv1(nn.functional.silu(x))))  # (B, C, h, w)


class Grain(nn.Module):
    """Fixed noise, added to features in proportion to gains that are predicted from them.

    Latents hold anatomy but little of a radiograph's grain, and latents of a diffusion model still less. With noise
    at hand a decoder need not make grain out of them. The gains start at zero, so the layer starts as the identity.

    Args:
        channels: feature channels.
        fold: pixels per feature pixel, along each side.

    References:
        Karras et al., "A Style-Based Generator Architecture for GANs", https://arxiv.org/abs/1812.04948: noise inputs
    """

    def __init__(self, channels: int, fold: int) -> None:
        super().__init__()
        self.fold = fold
        self.spread = nn.Conv2d(fold**2, channels, 1, bias=False)
        self.gain = _zero(nn.Conv2d(channels, channels, 1))
        noise = torch.randn(1, 1, TILE, TILE, generator=generator(0, 0, "grain"))  # (1, 1, T, T)
        self.noise: torch.Tensor
        self.register_buffer("noise", nn.functional.pixel_unshuffle(noise, fold), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add noise to features (B, C, h, w)."""
        height, width = x.shape[2:]
        repeats = (1, 1, -(-height // self.noise.shape[2]), -(-width // self.noise.shape[3]))
        noise = self.noise.repeat(repeats)[..., :height, :width]  # (1, fold^2, h, w)
        return x + self.gain(x) * self.spread(noise)  # (B, C, h, w)


class Finish(nn.Module):
    """Convolutions at full resolution that correct an image whose pixels were shuffled out of coarse channels.

    A pixel shuffle makes each pixel of a square by weights of its own, so that the grain follows the raster; these
    weights are shared by all pixels. The last convolution starts at zero: no correction.

    Args:
        fine: feature channels at a quarter of the resolution.
        channels: feature channels at full resolution.
        layers: convolutions at full resolution, at least 2.
        grain: whether noise is added to the features.
    """

    def __init__(self, fine: int, channels: int, layers: int, grain: bool) -> None:
        super().__init__()
        self.unfold = nn.Conv2d(fine, channels * FOLD**2, 1)
        self.first = nn.Conv2d(channels + 1, channels, 3, padding=1)
        self.grain = Grain(channels, 1) if grain else nn.Identity()
        self.middle = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(layers - 2))
        self.last = _zero(nn.Conv2d(channels, 1, 3, padding=1))
        # All pixels of a square start with the same features, as an upsampling without a raster has them.
        weight = self.unfold.weight.data.view(channels, FOLD**2, fine, 1, 1)
        weight.copy_(weight[:, :1].expand_as(weight))
        assert self.unfold.bias is not None
        nn.init.zeros_(self.unfold.bias)

    def forward(self, image: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Correct an image (B, 1, H, W), given the features (B, F, H/4, W/4) that it was made of."""
        unfolded = nn.functional.pixel_shuffle(self.unfold(features), FOLD)  # (B, C, H, W)
        x = self.grain(self.first(torch.cat([image, unfolded], dim=1)))  # (B, C, H, W)
        for convolution in self.middle:
            x = convolution(nn.functional.silu(x))  # (B, C, H, W)
        return image + self.last(nn.functional.silu(x))  # (B, 1, H, W)


class PrincipalAutoencoder(LatentCodec):
    """An autoencoder of radiographs that starts as the best linear one and learns what that one lacks.

    The latent is a linear map of each 8 x 8 patch plus a convolutional network's correction, and so is the image that
    is made of it. `fit` sets the linear maps to the principal components of patches, in closed form; all corrections
    start at zero. So the first training step is already where a network of the same size from random weights comes
    after hours on a CPU, and the corrections learn only seams, edges and texture.

    Args:
        latent_channels: channels of the latent, at most 64.
        channels: feature channels at a quarter and at an eighth of the resolution.
        encoder_blocks: residual blocks at a quarter and at an eighth of the resolution, on the way down.
        decoder_blocks: the same, on the way up.
        finish_channels: feature channels at full resolution, on the way up; 0: none, the pixel shuffle comes last.
        finish_layers: convolutions at full resolution, at least 2.
        grain: add noise to the decoder's features at a quarter of the resolution and, if there are any, at full
            resolution. The noise depends on the pixel's place alone: the same latents give the same image.

    References:
        Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", https://arxiv.org/abs/2112.10752
    """

    def __init__(
        self,
        latent_channels: int = 4,
        channels: Sequence[int] = (64, 96),
        encoder_blocks: Sequence[int] = (2, 1),
        decoder_blocks: Sequence[int] = (4, 2),
        finish_channels: int = 0,
        finish_layers: int = 2,
        grain: bool = False,
    ) -> None:
        super().__init__(latent_channels, factor=PATCH)
        if not 1 <= latent_channels <= PATCH**2:
            raise ValueError(f"latent_channels is {latent_channels}; a patch has 1 to {PATCH**2} components")
        if finish_channels < 0:
            raise ValueError(f"finish_channels is {finish_channels}; give 0 for none, or more")
        if finish_layers < 2:
            raise ValueError(f"finish_layers is {finish_layers}; the finish has at least 2")
        self.settings: dict[str, Any] = {
            "latent_channels": latent_channels,
            "channels": list(channels),
            "encoder_blocks": list(encoder_blocks),
            "decoder_blocks": list(decoder_blocks),
        }
        if finish_channels:
            self.settings |= {"finish_channels": finish_channels, "finish_layers": finish_layers}
        if grain:
            self.settings["grain"] = True
        (fine, coarse), (down_fine, down_coarse), (up_fine, up_coarse) = channels, encoder_blocks, decoder_blocks
        self.project = nn.Conv2d(PATCH**2, latent_channels, 1)
        self.expand = nn.Conv2d(latent_channels, PATCH**2, 1)
        self.encoder = nn.Sequential(
            nn.Conv2d(FOLD**2, fine, 3, padding=1),
            *(ResidualBlock(fine) for _ in range(down_fine)),
            nn.Conv2d(fine, coarse, 2, stride=2),
            *(ResidualBlock(coarse) for _ in range(down_coarse)),
            nn.SiLU(),
        )
        self.correct = _zero(nn.Conv2d(coarse, 2 * latent_channels, 3, padding=1))
        assert self.correct.bias is not None
        self.correct.bias.data[latent_channels:] = FIRST_LOGVAR
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, coarse, 3, padding=1),
            *(ResidualBlock(coarse) for _ in range(up_coarse)),
            nn.Conv2d(coarse, 4 * fine, 1),
            nn.PixelShuffle(2),
            *(ResidualBlock(fine) for _ in range(up_fine)),
            nn.SiLU(),
            _zero(nn.Conv2d(fine, FOLD**2, 3, padding=1)),
        )
        self.coarse_layers = up_coarse + 3  # of the decoder, up to the pixel shuffle
        self.grain = Grain(fine, FOLD) if grain else nn.Identity()
        self.finish = Finish(fine, finish_channels, finish_layers, grain) if finish_channels else None

    def posterior(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute mean and log-variance (B, C, h, w) of the latents of images (B, 1, H, W)."""
        values = 2 * x - 1  # (B, 1, H, W)
        corrections = self.correct(self.encoder(nn.functional.pixel_unshuffle(values, FOLD)))  # (B, 2C, h, w)
        mean, logvar = corrections.chunk(2, dim=1)  # (B, C, h, w) each
        return mean + self.project(nn.functional.pixel_unshuffle(values, PATCH)), logvar

    def reconstruct(self, z: torch.Tensor) -> torch.Tensor:
        """Decode without the final cut, so that values outside [0, 1] still have a gradient."""
        linear = nn.functional.pixel_shuffle(self.expand(z), PATCH)  # (B, 1, H, W)
        features = self.grain(self.decoder[: self.coarse_layers](z))  # (B, F, H/4, W/4)
        features = self.decoder[self.coarse_layers : -1](features)  # (B, F, H/4, W/4)
        image = linear + nn.functional.pixel_shuffle(self.decoder[-1](features), FOLD)  # (B, 1, H, W)
        return ((image if self.finish is None else self.finish(image, features)) + 1) / 2  # (B, 1, H, W)

    def encoder_names(self) -> list[str]:
        """Name the tensors that make latents, in their fixed order."""
        return [name for name in self.state_dict() if name.split(".")[0] in ENCODER_PARTS]

    def freeze_encoder(self, frozen: bool = True) -> None:
        """Leave everything that makes latents out of the training, or take it in again."""
        for part in ENCODER_PARTS:
            self.get_submodule(part).requires_grad_(not frozen)

    @torch.no_grad()
    def fit(self, images: torch.Tensor) -> None:
        """Set the linear maps to the principal components of the images' patches, whitened.

        Args:
            images: (N, 1, H, W) in [0, 1]; H and W are multiples of 8.
        """
        count, total, squares = 0, torch.zeros(PATCH**2).double(), torch.zeros(PATCH**2, PATCH**2).double()
        for batch in images.split(FIT_BATCH):
            folded = nn.functional.pixel_unshuffle(2 * batch.double() - 1, PATCH)  # (B, 64, h, w)
            patches = folded.movedim(1, -1).flatten(0, 2)  # (P, 64)
            count, total, squares = count + len(patches), total + patches.sum(0), squares + patches.T @ patches
        centre = total / count  # (64,)
        variance, components = torch.linalg.eigh(squares / count - centre.outer(centre))  # (64,), (64, 64), rising
        kept = slice(-self.latent_channels, None)
        deviation, basis = variance[kept].clamp_min(1e-12).sqrt(), components[:, kept]  # (C,), (64, C)
        # A constant patch is along the first component: positive means bright, whatever sign eigh chose.
        basis = basis * torch.where(basis.sum(0) < 0, -1.0, 1.0)  # (64, C)
        self.project.weight.copy_((basis / deviation).T[..., None, None])
        self.expand.weight.copy_((basis * deviation)[..., None, None])
        assert self.project.bias is not None and self.expand.bias is not None
        self.project.bias.copy_(-(basis / deviation).T @ centre)
        self.expand.bias.copy_(centre)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
