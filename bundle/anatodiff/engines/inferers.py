"""Thin inferers: how MONAI's engines call the networks."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer
from torch import nn

from anatodiff.autoencoders import LatentCodec
from anatodiff.diffusion import SAMPLERS, Guidance, NoiseSchedule, guided, normal
from anatodiff.losses import Prediction
from anatodiff.networks import ConditionedUNet, DiT


def autocast(device: torch.device, precision: torch.dtype | None) -> torch.autocast:
    """Let a block compute in a lower precision; None leaves it as it is."""
    return torch.autocast(device.type, dtype=precision, enabled=precision is not None)


class NoisePredictionInferer(Inferer):
    """Noise the latents and let the network predict.

    Args:
        schedule: noise schedule.
        precision: what the network computes in, e.g. torch.bfloat16; None: float32.
    """

    def __init__(self, schedule: NoiseSchedule, precision: torch.dtype | None = None) -> None:
        super().__init__()
        self.schedule, self.precision = schedule, precision

    def __call__(  # type: ignore[override]
        self,
        inputs: torch.Tensor,
        network: nn.Module,
        noise: torch.Tensor,
        index: torch.Tensor,
        class_labels: torch.Tensor,
        context: torch.Tensor | None = None,
    ) -> Prediction:
        """Predict.

        Args:
            inputs: (B, C, h, w) clean, scaled latents.
            network: DiT.
            noise: (B, C, h, w) standard normal.
            index: (B,) steps of the schedule, or angles of continuous noise levels.
            class_labels: (B,) labels, dropped ones already null.
            context: what else the network is told; dropped conditions already zero.

        Returns:
            network output and the noised latents.
        """
        noised = self.schedule.add_noise(inputs, noise, index)  # (B, C, h, w)
        with autocast(noised.device, self.precision):
            times = self.schedule.times(index)  # (B,)
            output = network(noised, times, context=context, class_labels=class_labels)  # (B, C or 2C, h, w)
        return Prediction(output, noised)


class ReconstructionInferer(Inferer):
    """Encode, draw and decode with given noise."""

    def __call__(  # type: ignore[override]
        self,
        inputs: torch.Tensor,
        network: nn.Module,
        noise: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Reconstruct inputs (B, 1, H, W) with posterior noise (B, C, h, w)."""
        return network(inputs, noise)


class SamplingInferer(Inferer):
    """Turn image numbers and classes into images.

    Args:
        schedule: the training schedule.
        autoencoder: decodes the latents.
        scale_factor: the base's latent scale.
        sampler: a name in `SAMPLERS`: "ddim", "ddpm" or "dpmpp".
        steps: sampling steps, 1 to the schedule's length; continuous noise levels have no upper limit.
        guidance: classifier-free guidance; None is none.
        seed: with the class and the image's number it fixes the image, whatever the batch.
        precision: what the network computes in, e.g. torch.bfloat16; None: float32.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        autoencoder: LatentCodec,
        scale_factor: float,
        sampler: str = "ddim",
        steps: int = 50,
        guidance: Guidance | None = None,
        seed: int = 0,
        precision: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {tuple(SAMPLERS)}, got {sampler!r}")
        self.schedule, self.autoencoder, self.scale_factor = schedule.respaced(steps), autoencoder, scale_factor
        self.sampler, self.seed, self.precision = SAMPLERS[sampler], seed, precision
        self.guidance = Guidance() if guidance is None else guidance
        self.settings: dict[str, Any] = {
            "sampler": sampler,
            "steps": steps,
            "guidance_scale": self.guidance.scale,
            "guidance_channels": self.guidance.channels,
            "guidance_interval": list(self.guidance.interval),
            "precision": str(precision or torch.float32).removeprefix("torch."),
            "seed": seed,
        }

    def __call__(  # type: ignore[override]
        self,
        inputs: torch.Tensor,
        network: DiT | ConditionedUNet,
        class_labels: torch.Tensor,
        context: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Sample images.

        Args:
            inputs: (B,) numbers of the images within their classes.
            network: DiT, or what is called like one.
            class_labels: (B,) labels; the null label samples without a class.
            context: (B, ...) what else the network is told; None: nothing.

        Returns:
            (B, 1, H, W) in [0, 1].
        """
        side, channels = network.input_size, network.in_channels
        device = class_labels.device
        names = [(int(number), int(label)) for number, label in zip(inputs, class_labels, strict=True)]

        def noise(what: str) -> torch.Tensor:
            draws = [normal((channels, side, side), self.seed, number, f"{what} of {label}") for number, label in names]
            return torch.stack(draws).to(device)  # (B, C, h, w)

        told = guided(network, class_labels, network.null_label, self.guidance, channels, context)

        def denoise(x: torch.Tensor, times: torch.Tensor, level: float) -> torch.Tensor:
            with autocast(device, self.precision):
                return told(x, times, level).float()  # (B, C or 2C, h, w)

        self.schedule.to(device)
        with torch.no_grad(), network.fixed_prototypes():
            z = self.sampler(denoise, noise("start"), self.schedule, lambda step: noise(f"step {step}"))
            return self.autoencoder.to(device).decode(z / self.scale_factor)  # (B, 1, H, W)
