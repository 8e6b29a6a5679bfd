"""The tiny autoencoders of the TAESD family: fast, small, and made to imitate a large one.

Facts of the architecture: https://github.com/madebyollin/taesd (MIT).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from anatodiff.autoencoders.codec import LOGVAR_LIMITS, LatentCodec, load_strictly
from anatodiff.weights import WeightsError, read_weights

ENCODER_ENDING, DECODER_ENDING = "_encoder.pth", "_decoder.pth"
WIDTH = 64  # channels of every layer
STAGES = 3  # each halves the resolution
BLOCKS = 3  # per stage
MIXING_WIDTH, MIXING_GROUPS = 4 * WIDTH, 4
LATENT_BOUND = 3.0  # the decoder bends larger latents back
RGB = 3
# Where an encoder's state dict tells its variant.
LATENT_KEY, MIXING_KEY = "14.weight", "11.pool.0.weight"


def _conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=bias)


class _Block(nn.Module):
    """Residual block of three convolutions; with `mixing`, pixels first learn of the whole image's statistics."""

    def __init__(self, mixing: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH)
        )  # the names of the parts are those of the published files
        self.pool = (
            nn.Sequential(
                nn.Conv2d(WIDTH, MIXING_WIDTH, kernel_size=1, bias=False),
                nn.GroupNorm(MIXING_GROUPS, MIXING_WIDTH),
                nn.ReLU(),
                nn.Conv2d(MIXING_WIDTH, WIDTH, kernel_size=1, bias=False),
            )
            if mixing
            else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pool is not None:
            x = x + self.pool(x)  # (B, 64, h, w)
        return nn.functional.relu(x + self.conv(x))  # (B, 64, h, w)


class _SoftBound(nn.Module):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return LATENT_BOUND * torch.tanh(z / LATENT_BOUND)  # (B, C, h, w)


def _encoder(latent_channels: int, mixing: bool) -> nn.Sequential:
    layers: list[nn.Module] = [_conv(RGB, WIDTH), _Block()]
    for stage in range(STAGES):
        deepest = stage == STAGES - 1
        layers.append(_conv(WIDTH, WIDTH, stride=2, bias=False))
        layers.extend(_Block(mixing and deepest) for _ in range(BLOCKS))
    return nn.Sequential(*layers, _conv(WIDTH, latent_channels))


def _decoder(latent_channels: int, mixing: bool) -> nn.Sequential:
    layers: list[nn.Module] = [_SoftBound(), _conv(latent_channels, WIDTH), nn.ReLU()]
    for stage in range(STAGES):
        layers.extend(_Block(mixing and stage == 0) for _ in range(BLOCKS))
        layers += [nn.Upsample(scale_factor=2), _conv(WIDTH, WIDTH, bias=False)]
    return nn.Sequential(*layers, _Block(), _conv(WIDTH, RGB))


class TinyAutoencoder(LatentCodec):
    """A deterministic autoencoder of colour images, given gray ones: three equal channels in, their mean out.

    Args:
        latent_channels: channels of the latent: 4, 16 or 32 in the published weights.
        mixing: with 1x1 convolutions and group normalisation at the lowest resolution (the imitation of FLUX.2's).

    References:
        Bohan, "TAESD", https://github.com/madebyollin/taesd
    """

    def __init__(self, latent_channels: int = 32, mixing: bool = True) -> None:
        super().__init__(latent_channels, factor=2**STAGES)
        self.encoder = _encoder(latent_channels, mixing)
        self.decoder = _decoder(latent_channels, mixing)

    def posterior(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode images (B, 1, H, W) to a mean with the least log-variance there is: nothing is spread."""
        mean = self.encoder(x.expand(-1, RGB, -1, -1))  # (B, C, h, w)
        return mean, torch.full_like(mean, LOGVAR_LIMITS[0])

    def reconstruct(self, z: torch.Tensor) -> torch.Tensor:
        """Decode without the final cut, so that values outside [0, 1] still have a gradient."""
        return self.decoder(z).mean(dim=1, keepdim=True)  # (B, 1, H, W)


def read_tiny_autoencoder(path: Path) -> TinyAutoencoder:
    """Read the encoder and the decoder beside it.

    Args:
        path: `<name>_encoder.pth`; `<name>_decoder.pth` lies in the same folder.

    Returns:
        the network; `sha256` is the hash of both files' bytes, the encoder's first.

    Raises:
        WeightsError: one of the files is missing, broken or of another architecture.
    """
    decoder_path = path.with_name(path.name.removesuffix(ENCODER_ENDING) + DECODER_ENDING)
    encoder = read_weights(path, f"an encoder of the TAESD family (*{ENCODER_ENDING})").tensors
    decoder = read_weights(decoder_path, "the decoder beside its encoder").tensors
    if LATENT_KEY not in encoder:
        raise WeightsError(f"{path}: no encoder of the TAESD family at factor 8; give another autoencoder")
    autoencoder = TinyAutoencoder(len(encoder[LATENT_KEY]), mixing=MIXING_KEY in encoder)
    load_strictly(autoencoder.encoder, encoder, path)
    load_strictly(autoencoder.decoder, decoder, decoder_path)
    autoencoder.sha256 = hashlib.sha256(path.read_bytes() + decoder_path.read_bytes()).hexdigest()
    return autoencoder
