"""What the training of a base's weights leaves behind: a DiT or an autoencoder, and pictures of what they make."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import torch
from ignite.handlers import EMAHandler
from monai.metrics import PSNRMetric

from anatodiff.autoencoders import ImageDataset, LatentCodec, PrincipalAutoencoder, save_autoencoder
from anatodiff.diffusion import DiffusionSettings
from anatodiff.engines.finish import PICTURE_COLUMNS
from anatodiff.engines.guard import StepGuard
from anatodiff.engines.inferers import SamplingInferer
from anatodiff.engines.manifest import image_set, write_manifest
from anatodiff.engines.pictures import save_grid
from anatodiff.engines.sampling import sample
from anatodiff.networks import Base, DiT, save_base
from anatodiff.parallel import is_main

# With the weights' own name: weights of several kinds may lie in one folder.
MANIFEST_SUFFIX = ".manifest.json"
logger = logging.getLogger(__name__)


class PretrainResult:
    """Write a pretrained base and a picture of its samples.

    Args:
        path: .safetensors file to write.
        ema: moving average of the network.
        inferer: sampler.
        classes: class names.
        scale_factor: latent scale that it was trained with.
        autoencoder: the autoencoder that it belongs to.
        licence: licence of the training data.
        diffusion: noise schedule and what the network predicts.
        notes: how it was trained.
        device: where to sample.
        start: the base that it went on from, whose licence holds, too; None where it started anew.
        guard: counted the steps that changed nothing; None where none was.
    """

    def __init__(
        self,
        path: str | Path,
        ema: EMAHandler,
        inferer: SamplingInferer,
        classes: list[str],
        scale_factor: float,
        autoencoder: LatentCodec,
        licence: str,
        diffusion: DiffusionSettings,
        notes: dict[str, Any],
        device: torch.device,
        start: Base | None = None,
        guard: StepGuard | None = None,
    ) -> None:
        self.diffusion, self.start, self.guard = diffusion, start, guard
        self.path, self.ema, self.inferer, self.classes = Path(path), ema, inferer, classes
        self.scale_factor, self.autoencoder = scale_factor, autoencoder
        also = "" if start is None or start.licence == licence else f"; went on from a base of: {start.licence}"
        self.licence, self.notes, self.device = licence + also, notes, device

    def write(self, path: Path, notes: dict[str, Any] | None = None) -> str:
        """Write the weights of the moving average alone.

        Args:
            path: .safetensors file.
            notes: what else to keep in the header.

        Returns:
            SHA-256 of the file.
        """
        network = cast(DiT, self.ema.ema_model)
        base = Base(network, self.scale_factor, self.classes, "", self.autoencoder.sha256, self.licence, self.diffusion)
        return save_base(path, base, {**self.notes, **_skipped(self.guard), **(notes or {})})

    def run(self) -> None:
        """Write the base, and `<name>.png` and `<name>.manifest.json` beside it; one process does it."""
        if not is_main():
            return
        network = cast(DiT, self.ema.ema_model)
        weights_hash = self.write(self.path)
        weights = {"base": weights_hash, "autoencoder": self.autoencoder.sha256}
        weights |= {} if self.start is None else {"start": self.start.sha256}
        write_manifest(
            self.path.with_suffix(MANIFEST_SUFFIX),
            "base",
            [self.path],
            weights=weights,
            data={"training": image_set(self.notes["run"]["data"], self.notes["images"])},
            licences={"data": self.licence},
            device=self.device,
        )
        logger.info("wrote %s (%.2f MB)", self.path, self.path.stat().st_size / 1e6)
        labels = torch.arange(len(self.classes)).repeat_interleave(PICTURE_COLUMNS)
        images = sample(network, self.inferer, labels, PICTURE_COLUMNS, self.device)
        rows = [list(row) for row in images.split(PICTURE_COLUMNS)]
        save_grid(self.path.with_suffix(".png"), rows, [f"synthetic: {name}" for name in self.classes])


class AutoencoderResult:
    """Write a trained autoencoder and how well it reconstructs held-back images.

    Args:
        path: .safetensors file to write.
        ema: moving average of the network.
        test: held-back images.
        notes: how it was trained.
        device: where to compute.
        guard: counted the steps that changed nothing; None where none was.
    """

    def __init__(
        self,
        path: str | Path,
        ema: EMAHandler,
        test: ImageDataset,
        notes: dict[str, Any],
        device: torch.device,
        guard: StepGuard | None = None,
    ) -> None:
        self.guard = guard
        self.path, self.ema, self.test, self.notes, self.device = Path(path), ema, test, notes, device

    @torch.no_grad()
    def run(self) -> None:
        """Write the weights, log the signal-to-noise ratio, and draw `<name>.png` beside them; one process does it."""
        if not is_main():
            return
        autoencoder = cast(PrincipalAutoencoder, self.ema.ema_model)
        autoencoder.to(self.device).eval()
        psnr = PSNRMetric(max_val=1.0)
        again = []
        for batch in self.test.images.split(PICTURE_COLUMNS):
            mean, _ = autoencoder.encode(batch.float().to(self.device))  # (B, C, h, w)
            again.append(autoencoder.decode(mean).cpu())  # (B, 1, H, W)
            psnr(again[-1], batch.float())
        value = float(torch.as_tensor(psnr.aggregate()))
        notes = {**self.notes, **_skipped(self.guard), "psnr_db": round(value, 2)}
        weights_hash = save_autoencoder(self.path, autoencoder, notes)
        sets = {"training": (self.notes["run"]["data"], self.notes["images"])}
        sets["held back"] = (self.test.key, len(self.test))
        write_manifest(
            self.path.with_suffix(MANIFEST_SUFFIX),
            "autoencoder",
            [self.path],
            weights={"autoencoder": weights_hash},
            data={name: image_set(*facts) for name, facts in sets.items()},
            licences={},
            device=self.device,
        )
        logger.info(
            "wrote %s (%.2f MB); reconstruction of %d held-back images: %.2f dB",
            self.path,
            self.path.stat().st_size / 1e6,
            len(self.test),
            value,
        )
        rows = [list(self.test.images[:PICTURE_COLUMNS].float()), list(again[0])]
        save_grid(self.path.with_suffix(".png"), rows, ["real, held back", "reconstructed"])


def _skipped(guard: StepGuard | None) -> dict[str, int]:
    return {} if guard is None else {"skipped_steps": guard.skipped}
