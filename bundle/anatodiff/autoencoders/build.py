"""The autoencoder that a training starts from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from anatodiff.autoencoders.files import read_autoencoder
from anatodiff.autoencoders.principal import PrincipalAutoencoder
from anatodiff.weights import WeightsError


def build_autoencoder(
    images: torch.Tensor,
    latent_channels: int = 4,
    channels: Sequence[int] = (64, 96),
    encoder_blocks: Sequence[int] = (2, 1),
    decoder_blocks: Sequence[int] = (4, 2),
    finish_channels: int = 0,
    finish_layers: int = 2,
    grain: bool = False,
    start_path: str | Path | None = None,
    frozen_encoder: bool = False,
    seed: int = 0,
) -> PrincipalAutoencoder:
    """Build an autoencoder on the principal components of images, or read one to train it further.

    Args:
        images: (N, 1, H, W) training images in [0, 1].
        latent_channels: see `PrincipalAutoencoder`, as are the next three.
        channels: feature channels.
        encoder_blocks: residual blocks of the encoder.
        decoder_blocks: residual blocks of the decoder.
        finish_channels: feature channels of the decoder at full resolution; 0 is none.
        finish_layers: convolutions of the decoder at full resolution.
        grain: whether the decoder has noise at hand.
        start_path: file to go on from; its settings must be these, but it may lack the finish or the grain. Both then
            start as the identity: the first reconstructions are the file's.
        frozen_encoder: train the decoder only: latents, and so every base on them, stay as they are.
        seed: of the first weights.

    Returns:
        the network, in training mode.

    Raises:
        WeightsError: the file is missing, of another architecture, or of other settings.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder = PrincipalAutoencoder(
            latent_channels, channels, encoder_blocks, decoder_blocks, finish_channels, finish_layers, grain
        )
    if start_path is None:
        autoencoder.fit(images)
    else:
        start = read_autoencoder(start_path)
        if not isinstance(start, PrincipalAutoencoder):
            raise WeightsError(f"{start_path}: no autoencoder of this architecture; give one that this training made")
        differing = [name for name, value in start.settings.items() if value != autoencoder.settings.get(name)]
        if differing:
            name = differing[0]
            raise WeightsError(f"{start_path}: has {name} {start.settings[name]}; set it so, or give another file")
        # What the file lacks keeps its first weights, which change nothing.
        autoencoder.load_state_dict({**autoencoder.state_dict(), **start.state_dict()})
        autoencoder.sha256 = start.sha256
    autoencoder.freeze_encoder(frozen_encoder)
    return autoencoder.train()
