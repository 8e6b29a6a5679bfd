"""What a run leaves behind: weights, samples, and how far those are from real images."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from ignite.handlers import EMAHandler
from monai.engines import SupervisedEvaluator

from anatodiff.autoencoders import CTLatents, LatentDataset
from anatodiff.diffusion import normal
from anatodiff.engines.attention import draw_attention, prototype_attention
from anatodiff.engines.ct import CTSampling
from anatodiff.engines.ct_writer import CTSampleWriter
from anatodiff.engines.guard import StepGuard
from anatodiff.engines.inferers import SamplingInferer
from anatodiff.engines.manifest import MANIFEST_NAME, Provenance, image_set, write_manifest
from anatodiff.engines.pictures import save_grid
from anatodiff.engines.prepare import Prototypes
from anatodiff.engines.sampling import SampleRequests, SampleWriter, sample, sampling_batch
from anatodiff.engines.told import RequestBatches
from anatodiff.files import replaced_when_whole
from anatodiff.metrics import FeatureNetwork, kernel_distance
from anatodiff.networks import Base, DiT, FineTuning, save_adapter, save_model, trained_names
from anatodiff.parallel import is_main

logger = logging.getLogger(__name__)

ADAPTER_NAME = "adapter.safetensors"
MODEL_NAME = "model.pt"
QUALITY_NAME = "quality.json"
SAMPLES_NAME = "samples"
PICTURE_COLUMNS = 8
PICTURE_ROWS = 4
MEASURED = ("before", "after")
MIN_SAMPLES = 3  # the kernel distance's jackknife leaves two


class FineTuneResult:
    """Write the adapter, sample with it, and measure the samples against held-back images.

    Args:
        output_dir: the run's folder.
        network: the trained network, which tells what is new.
        ema: its moving average: what is kept.
        base: the base it stands on, for "before".
        inferer: sampler.
        train: training images.
        test: held-back images, of patients that the training never saw.
        features: describes images for the kernel distance.
        classes: class names.
        samples_per_class: images to sample of each class.
        batch_size: images per sampling batch.
        tuning: how it was fine-tuned.
        settings: what else the adapter's header keeps (options, licence).
        prototypes: shape prototypes, for the picture of the attention; None where there are none.
        device: where to sample.
        start_class: class of the base that the fine-tune started from, for "before".
        measured: "before" samples and measures the base, too, "after" the result; evaluate.json measures more.
        guard: counted the steps that changed nothing; None where none was.
        sampling: requests and writer of CT; None samples the classes.
    """

    def __init__(
        self,
        output_dir: str | Path,
        network: DiT,
        ema: EMAHandler,
        base: Base,
        inferer: SamplingInferer,
        train: LatentDataset | CTLatents,
        test: LatentDataset | CTLatents,
        features: FeatureNetwork,
        classes: list[str],
        samples_per_class: int,
        batch_size: int,
        tuning: FineTuning,
        settings: dict[str, Any],
        prototypes: Prototypes | None,
        device: torch.device,
        start_class: str | None = None,
        measured: Sequence[str] = MEASURED,
        guard: StepGuard | None = None,
        sampling: CTSampling | None = None,
    ) -> None:
        self.guard, self.sampling = guard, sampling
        self.measured = tuple(measured)
        self.start_label = base.label_of(start_class)
        self.tuning, self.prototypes = tuning, prototypes
        self.output_dir, self.network, self.ema = Path(output_dir), network, ema
        self.base, self.inferer = base, inferer
        self.train, self.test, self.features, self.classes = train, test, features, classes
        self.samples_per_class, self.batch_size = samples_per_class, batch_size
        self.settings, self.device = settings, device
        self.licences = {"data": settings.get("data_licence", "not stated"), "base": base.licence}

    def check(self) -> None:
        """Find out before the training what would fail after it.

        Raises:
            ValueError: too few samples are asked for to measure them.
        """
        unknown = [name for name in self.measured if name not in MEASURED]
        if unknown or self.measured == ("before",):
            raise ValueError(f'measured is {list(self.measured)}; give ["before", "after"], ["after"] or []')
        wanted = self.samples_per_class * len(self.classes)
        if wanted < MIN_SAMPLES:
            raise ValueError(
                f"samples_per_class is {self.samples_per_class}; measuring needs {MIN_SAMPLES} samples or more"
            )

    def run(self) -> None:
        """Write `adapter.safetensors`, `model.pt`, `samples/`, pictures, `quality.json` and `manifest.json`.

        Of several processes one does it.
        """
        if not is_main():
            return
        network = cast(DiT, self.ema.ema_model)
        weights_hash = self.write_adapter(self.output_dir / ADAPTER_NAME)
        save_model(self.output_dir / MODEL_NAME, network)
        after = self._write_samples(network, weights_hash)  # (N, 1, H, W)
        before = None
        if "before" in self.measured:
            labels = torch.full((len(after),), self.start_label)
            before = sample(self.base.network, self.inferer, labels, self.batch_size, self.device)  # (N, 1, H, W)
        if self.measured:
            self._measure(before, after)
        if self.prototypes is not None:
            self._draw_attention(network, self.prototypes)
        self._write_manifest(weights_hash)

    def _weights(self) -> dict[str, str]:
        return {"base": self.base.sha256, "autoencoder": self.base.autoencoder_sha256}

    def _write_manifest(self, weights_hash: str) -> None:
        # Of what may be given away: the other files show or name images of patients.
        names = (ADAPTER_NAME, MODEL_NAME, QUALITY_NAME, f"{SAMPLES_NAME}/{MANIFEST_NAME}")
        sets = {"training": self.train, "held back": self.test}
        write_manifest(
            self.output_dir / MANIFEST_NAME,
            "fine-tune",
            [self.output_dir / name for name in names],
            weights={**self._weights(), "adapter": weights_hash, self.features.name: self.features.sha256},
            data={name: image_set(images.key, len(images)) for name, images in sets.items()},
            licences=self.licences,
            device=self.device,
        )

    def write_adapter(self, path: Path) -> str:
        """Write the moving average as it is now.

        Args:
            path: .safetensors file.

        Returns:
            SHA-256 of the file.
        """
        network = cast(DiT, self.ema.ema_model)
        facts = {**self.settings, "base_licence": self.base.licence}
        facts |= {"classes": self.classes, "training_images": len(self.train)}
        if self.guard is not None:
            facts |= {"skipped_steps": self.guard.skipped}
        if self.sampling is not None:
            facts |= {"ct": self.sampling.facts}
        weights_hash = save_adapter(path, network, trained_names(self.network), self.base, self.tuning, facts)
        logger.info("wrote %s (%.2f MB)", path, path.stat().st_size / 1e6)
        return weights_hash

    def _draw_attention(self, network: DiT, prototypes: Prototypes) -> None:
        """Draw what held-back images, half noised, attend to."""
        schedule, shown = self.inferer.schedule.to(self.device), slice(0, PICTURE_ROWS)
        x0 = self.test.mean[shown].to(self.device) * self.base.scale_factor  # (B, C, h, w)
        noise = normal(tuple(x0.shape), self.inferer.seed, 0, "attention").to(self.device)  # (B, C, h, w)
        index = torch.full((len(x0),), len(schedule) // 2, device=self.device)
        noised = schedule.add_noise(x0, noise, index)  # (B, C, h, w)
        labels = self.test.labels[shown].to(self.device)
        attention = prototype_attention(network, noised, schedule.times(index), labels)  # (B, T, K)
        path = self.output_dir / "attention.png"
        draw_attention(path, self.test.images[shown].float(), prototypes.images, attention.cpu())

    def _write_samples(self, network: DiT, weights_hash: str) -> torch.Tensor:
        weights = {**self._weights(), "adapter": weights_hash}
        provenance = Provenance(weights, self.licences, self.inferer.settings)
        folder = self.output_dir / SAMPLES_NAME
        batches: SampleRequests | RequestBatches
        writer: SampleWriter | CTSampleWriter
        if self.sampling is None:
            batches = SampleRequests(self.samples_per_class, self.classes, self.batch_size)
            writer = SampleWriter(folder, self.classes, provenance, overwrite=True)
        else:
            requests = self.sampling.requests(self.samples_per_class)
            batches = self.sampling.batches(requests, self.batch_size)
            writer = self.sampling.writer(folder, requests, provenance)
        SupervisedEvaluator(
            device=self.device,
            val_data_loader=batches,
            network=network.to(self.device),
            prepare_batch=sampling_batch,
            inferer=self.inferer,
            val_handlers=[writer],
            decollate=False,
        ).run()
        return writer.drawn()  # (N, 1, H, W)

    def _measure(self, before: torch.Tensor | None, after: torch.Tensor) -> None:
        first = {} if before is None else {"before": before}
        sets = {**first, "after": after, "real": self.train.images}
        held_back = self.features(self.test.images)  # (M, D)
        found = {name: kernel_distance(held_back, self.features(images)) for name, images in sets.items()}
        record = {
            "kernel_distance": {name: {"value": found[name].value, "stderr": found[name].stderr} for name in found},
            "samples": len(after),
            "features": self.features.name,
        }
        with replaced_when_whole(self.output_dir / QUALITY_NAME) as temporary:
            temporary.write_text(json.dumps(record, indent=1))
        shown = {name: f"{1e3 * d.value:.0f} ± {1e3 * d.stderr:.0f}" for name, d in found.items()}
        logger.info(
            "kernel distance (x 1000, by %s) of %d samples to %d held-back images: %safter the fine-tune %s; of the "
            "training images themselves %s",
            self.features.name,
            len(after),
            len(self.test),
            "" if before is None else f"before the fine-tune {shown['before']}, ",
            shown["after"],
            shown["real"],
        )
        titles = {"before": "synthetic, before the fine-tune", "after": "synthetic, after it"}
        pictures = {"real, held back": self.test.images}
        pictures |= {title: sets[name] for name, title in titles.items() if name in sets}
        rows = [list(images[:PICTURE_COLUMNS].float()) for images in pictures.values()]
        save_grid(self.output_dir / "before_after.png", rows, list(pictures))
