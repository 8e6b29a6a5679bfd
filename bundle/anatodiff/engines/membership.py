"""Membership inference with the model in hand: a network denoises the images that it learned from too well."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from anatodiff.autoencoders import LatentCodec, LatentDataset, load_autoencoder
from anatodiff.diffusion import normal
from anatodiff.engines.evaluation_inputs import RealImages
from anatodiff.engines.inferers import NoisePredictionInferer
from anatodiff.engines.workflow import OptionError
from anatodiff.metrics import Membership, membership_inference
from anatodiff.networks import Adapter, load_adapter

logger = logging.getLogger(__name__)

DRAWS = 8  # times of the schedule, each with its noise
BATCH = 16


class ModelMembership:
    """Scores images by how well a fine-tuned network denoises them, and measures what the scores give away.

    Args:
        adapter: the fine-tuned network.
        autoencoder: encodes the images.
        cache_dir: folder of the caches.
        device: where to compute.
        seed: of the noise, which is the same for each image.
    """

    def __init__(
        self,
        adapter: Adapter,
        autoencoder: LatentCodec,
        cache_dir: str | Path,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        self.adapter, self.autoencoder, self.cache_dir = adapter, autoencoder, Path(cache_dir)
        self.device, self.seed = torch.device(device), seed

    @property
    def settings(self) -> dict[str, Any]:
        """What to know of the scores: hash of the adapter's file, and the draws for each image."""
        return {"adapter_sha256": self.adapter.sha256, "draws": DRAWS}

    def __call__(self, real: RealImages) -> Membership:
        """Tell training images from reference images by their scores.

        The network is told the classes only if it knows those of both sets: with classes for one set alone, the
        scores would tell the sets apart by these.

        Args:
            real: images of both kinds.
        """
        known = {name: label for label, name in enumerate(self.adapter.classes)}
        names = [name for name in {*real.train_classes, *real.reference_classes} if name not in known]
        if names:
            logger.info("membership by the model is without classes: the adapter does not know %s", sorted(names)[0])
        scores = []
        for images, classes in ((real.train, real.train_classes), (real.reference, real.reference_classes)):
            size = images.images.shape[-1]
            latents = LatentDataset(images.items, size, self.cache_dir, self.autoencoder, self.device)
            labels = torch.full_like(latents.labels, self.adapter.network.null_label)
            if not names and classes:
                labels = torch.tensor([known[name] for name in classes])[latents.labels]  # (N,)
            scores.append(self.scores(latents.mean, labels))
        return membership_inference(*scores)

    @torch.no_grad()
    def scores(self, mean: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Score images: less the mean squared error of the prediction that was trained, so that larger says "member".

        The noise levels are quantiles of the training's, and each has one noise: all images get the same draws.

        Args:
            mean: (N, C, h, w) means of the posteriors, not scaled.
            labels: (N,) labels of the network's classes.

        Returns:
            (N,) scores.

        References:
            Matsumoto et al., Membership inference attacks against diffusion models, 2023.
        """
        network, schedule = self.adapter.network.to(self.device).eval(), self.adapter.diffusion.build().to(self.device)
        predict, channels = NoisePredictionInferer(schedule), mean.shape[1]
        noises = torch.stack([normal(tuple(mean.shape[1:]), self.seed, k, "membership noise") for k in range(DRAWS)])
        steps = schedule.draw((torch.arange(DRAWS, dtype=torch.float64) + 0.5) / DRAWS).to(self.device)  # (DRAWS,)
        found = []
        with network.fixed_prototypes():
            for at in tqdm(torch.arange(len(mean)).split(BATCH), "membership"):
                x0 = (mean[at] * self.adapter.scale_factor).to(self.device)  # (B, C, h, w)
                told, errors = labels[at].to(self.device), torch.zeros(len(at), device=self.device)
                for step, draw in zip(steps, noises.to(self.device), strict=True):
                    index, noise = step.expand(len(at)), draw.expand_as(x0)  # (B,), (B, C, h, w)
                    said = predict(x0, network, noise, index, told).output[:, :channels]  # (B, C, h, w)
                    errors += (said.float() - schedule.target(x0, noise, index)).square().flatten(1).mean(dim=1)
                found.append(-errors.cpu() / DRAWS)
        return torch.cat(found)


def model_membership(
    adapter_path: str | Path | None,
    base_path: str | Path | None,
    autoencoder_path: str | Path | None,
    cache_dir: str | Path,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> ModelMembership | None:
    """Load the network that made the samples; None where none is given.

    Args:
        adapter_path: .safetensors file of an adapter or of merged weights.
        base_path: the base that it stands on; None takes the one that ships.
        autoencoder_path: its autoencoder; None takes the one that ships.
        cache_dir: folder of the caches.
        device: where to compute.
        seed: of the noise.

    Returns:
        what measures membership by the network.

    Raises:
        OptionError: there is no adapter for the other two.
        WeightsError: a file is missing or does not fit.
    """
    if adapter_path is None:
        given = [name for name, path in (("base_path", base_path), ("autoencoder_path", autoencoder_path)) if path]
        if given:
            raise OptionError(f"{given[0]} is read beside adapter_path only; give that too, or leave {given[0]} out")
        return None
    autoencoder = load_autoencoder(autoencoder_path)
    adapter = load_adapter(adapter_path, base_path, autoencoder)
    return ModelMembership(adapter, autoencoder, cache_dir, device, seed)
