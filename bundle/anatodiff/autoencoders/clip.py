"""Conditions as the embeddings of a frozen CLIP vision tower (NA-Diff, section 3.3 and eq. 10)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError

from anatodiff.autoencoders.context import ContextCodec, ContextLayout, mask_picture, noise_picture
from anatodiff.files import sha256_of
from anatodiff.weights import WeightsError

# Mean and standard deviation of RGB that CLIP was trained with (Radford et al. 2021, the published preprocessor).
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WEIGHTS_NAME = "model.safetensors"


class CLIPCodec(ContextCodec):
    """Conditions as global vectors: each is drawn as an image and encoded by CLIP's vision tower.

    Args:
        names: of the conditions.
        noise_scale: HU of a noise map that become white.
        organs: number of organs of a mask, which become gray levels.
        path: folder of a CLIP model or its vision tower, as transformers saves it, with safetensors weights.
        device: where to encode.

    Raises:
        WeightsError: transformers is not installed, or there is no such model.

    References:
        Radford et al., https://arxiv.org/abs/2103.00020
    """

    def __init__(
        self,
        names: Sequence[str],
        noise_scale: float,
        organs: int,
        path: str | Path,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(names, noise_scale, organs)
        weights = Path(path) / WEIGHTS_NAME
        try:
            from transformers import CLIPVisionModelWithProjection
        except ImportError as error:
            raise WeightsError(
                f"{path}: CLIP needs transformers; install it: pip install 'anatodiff[clip]', or leave clip_path out"
            ) from error
        if not weights.is_file():
            raise WeightsError(f"{path}: no folder of a CLIP model with {WEIGHTS_NAME}; save one by save_pretrained")
        try:
            loaded: Any = CLIPVisionModelWithProjection.from_pretrained(
                path, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            first = str(error).splitlines()[0]
            raise WeightsError(f"{path}: not a CLIP model that transformers reads ({first}); give another") from error
        model, loading = loaded
        if loading["missing_keys"]:  # transformers would draw them at random
            raise WeightsError(f"{path}: not a CLIP model, it lacks {min(loading['missing_keys'])}; give another")
        self.model, self.device = model.eval().requires_grad_(False).to(device), device
        self.side, self.features = int(model.config.image_size), int(model.config.projection_dim)
        self.key = ["clip", sha256_of(weights), *self.key]
        self.layout = ContextLayout(self.names, (1,) * len(self.names), "embeddings")

    def _of_noise(self, noise: torch.Tensor) -> torch.Tensor:
        return self._embedded(noise_picture(noise, self.noise_scale))

    def _of_mask(self, mask: torch.Tensor) -> torch.Tensor:
        return self._embedded(mask_picture(mask, self.organs))

    @torch.no_grad()
    def _embedded(self, picture: torch.Tensor) -> torch.Tensor:
        """Embed images (B, 1, S, S) in [0, 1]; (B, 1, F)."""
        small = F.interpolate(picture, size=(self.side, self.side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(three).reshape(1, 3, 1, 1) for three in (MEAN, STD))
        return self.model(((small - mean) / std).to(self.device)).image_embeds.cpu()[:, None]  # (B, 1, F)
