"""Emulate the noise of CT in natural images: project, count photons, reconstruct."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor, ensure_tuple_rep

from anatodiff.draws import generator
from anatodiff.transforms.angles import HALF_TURN
from anatodiff.transforms.ct_noise import check_dose, check_finite, dose_of
from anatodiff.transforms.parallel_beam import iradon, radon

__all__ = ["EmulateCTNoise", "EmulateCTNoised"]

# A ray of which no photon arrives has no logarithm: it counts as if one had.
FEWEST_PHOTONS = 1.0
RANGE_TOLERANCE = 1e-3  # rounding of an interpolation, not another intensity scale


class EmulateCTNoise(Transform):
    """Give a natural image the quantum noise of a CT scan (eq. 1).

    The grey level is taken for the density of water: 0 is nothing, 1 is water. Parallel beams over half a turn pass
    through it, a Poisson number of photons arrives behind each ray, its logarithm is the noisy projection, and filtered
    back projection with a Hann window makes an image of it.

    Args:
        dose: share of the full dose, in (0, 1].
        photons: I0, photons that each ray starts with at full dose.
        attenuation: mu of water, per pixel: 0.02 is that of about 70 keV if a pixel is 1 mm wide.
        angles: number of projections, evenly over half a turn; noise falls as 1 / angles, as each has all of I0.
        seed: of the draws; the same seed, name and dose give the same photons.

    Raises:
        ValueError: an argument is out of range.

    References:
        NA-Diff, section 3.2.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - MONAI's own declaration

    def __init__(
        self,
        dose: float = 0.25,
        photons: float = 1e5,
        attenuation: float = 0.02,
        angles: int = 180,
        seed: int = 0,
    ) -> None:
        self.dose = check_dose(dose)
        for name, value in (("photons", photons), ("attenuation", attenuation), ("angles", angles)):
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} is not a positive number.")
        if int(angles) != angles:
            raise ValueError(f"angles={angles} is not a whole number of projections.")
        self.photons, self.attenuation, self.angles, self.seed = photons, attenuation, int(angles), seed

    def __call__(  # type: ignore[override]  # a draw needs a name
        self, img: NdarrayOrTensor, name: str, dose: float | None = None
    ) -> tuple[NdarrayOrTensor, NdarrayOrTensor]:
        """Emulate one scan.

        Args:
            img: (1, H, W), grey, in [0, 1].
            name: what tells this image's draw from that of other images, e.g. its path in the data set.
            dose: in place of the transform's own.

        Returns:
            the noisy image and its noise, both float32 (1, H, W), in units of the density of water and not clipped, of
            the kind of `img`. Their difference is the reconstruction without noise, a little softer than `img`.

        Raises:
            ValueError: the image is not (1, H, W) in [0, 1], or the dose is out of range.
        """
        dose = self.dose if dose is None else check_dose(dose)
        noisy, noise = self._scans(self._checked(img)[None], [name], [dose])  # (1, 1, H, W)
        return convert_to_dst_type(noisy[0], img)[0], convert_to_dst_type(noise[0], img)[0]

    def batch(
        self, images: torch.Tensor, names: Sequence[str], doses: Sequence[float]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Emulate scans of several images of one size, each at several doses.

        The draws are those of one image after the other. The grids are shared by all, and the projections of an image
        by its doses, so that an image costs a fraction of what it costs alone.

        Args:
            images: (B, 1, H, W), grey, in [0, 1].
            names: B names, what tells an image's draw from that of others.
            doses: D shares of the full dose, in (0, 1].

        Returns:
            the noisy images and their noise, both float32 (B, D, H, W), in units of the density of water and not
            clipped.

        Raises:
            ValueError: an image or a dose is out of range, or there is not one name for each image.
        """
        if images.ndim != 4 or len(images) != len(names) or 0 in (len(names), len(doses)):
            raise ValueError(
                f"images of shape {tuple(images.shape)}, {len(names)} names and {len(doses)} doses: give (B, 1, H, W), "
                "a name for each image and at least one dose."
            )
        x = torch.stack([self._checked(image) for image in images])  # (B, 1, H, W)
        return self._scans(x, names, [check_dose(dose) for dose in doses])

    def _scans(
        self, x: torch.Tensor, names: Sequence[str], doses: Sequence[float]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        degrees = torch.arange(self.angles, dtype=torch.float64) * (HALF_TURN / self.angles)
        path = radon(x, degrees)  # (B, 1, detectors, A) pixels of water
        pairs = zip(path[:, 0], names, strict=True)
        errors = [torch.stack([self._error(one, name, dose) for dose in doses]) for one, name in pairs]
        # The reconstruction is linear: that of the error is the noise, without a difference of large numbers.
        size = max(x.shape[-2:])
        both = iradon(torch.cat([path, torch.stack(errors)], dim=1), degrees, output_size=size)  # (B, 1 + D, S, S)
        top, left = (size // 2 - n // 2 for n in x.shape[-2:])
        both = both[..., top : top + x.shape[-2], left : left + x.shape[-1]]
        return both[:, :1] + both[:, 1:], both[:, 1:]  # (B, D, H, W)

    def _error(self, path: torch.Tensor, name: str, dose: float) -> torch.Tensor:
        """Draw what the photons of one scan add to its projections (detectors, A), in pixels of water."""
        # Counted on the CPU whatever the device: the draws of a GPU are others.
        expected = self.photons * dose * (-self.attenuation * path.double().cpu()).exp()
        draws = generator(self.seed, 0, f"photons/{name}/{dose!r}")
        counted = torch.poisson(expected, draws).clamp(min=FEWEST_PHOTONS)
        return ((expected / counted).log() / self.attenuation).to(path)

    @staticmethod
    def _checked(img: NdarrayOrTensor) -> torch.Tensor:
        if img.ndim != 3 or img.shape[0] != 1 or 0 in img.shape:
            raise ValueError(f"img has shape {tuple(img.shape)}, not (1, H, W): give one grey image.")
        check_finite(img, "image")
        x = convert_to_tensor(img, dtype=torch.float32, track_meta=False)
        low, high = float(x.min()), float(x.max())
        if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
            raise ValueError(f"img lies in [{low:g}, {high:g}], not in [0, 1]: scale it first.")
        return x


class EmulateCTNoised(MapTransform):
    """`EmulateCTNoise` for the named entries of a dictionary.

    Args:
        keys: entries with grey images; the noisy images take their place.
        noise_keys: entries to write the noise to, one for each of `keys`.
        name_key: entry whose text tells this item's draw from that of others, e.g. its path in the data set.
        dose: share of the full dose, in (0, 1], or the entry that holds it.
        photons: photons that each ray starts with at full dose.
        attenuation: of water, per pixel.
        angles: number of projections, evenly over half a turn.
        seed: of the draws.
        allow_missing_keys: pass over an image that is not there, in place of raising a KeyError.
    """

    backend = EmulateCTNoise.backend

    def __init__(
        self,
        keys: KeysCollection,
        noise_keys: KeysCollection,
        name_key: str,
        dose: float | str = 0.25,
        photons: float = 1e5,
        attenuation: float = 0.02,
        angles: int = 180,
        seed: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.noise_keys = ensure_tuple_rep(noise_keys, len(self.keys))
        self.name_key, self.dose = name_key, dose
        self.emulate = EmulateCTNoise(1.0 if isinstance(dose, str) else dose, photons, attenuation, angles, seed)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Emulate the scans of one item.

        Args:
            data: the dictionary; it is not changed.

        Returns:
            A copy with the noisy images and their noise.

        Raises:
            ValueError: an image or the dose is out of range.
            KeyError: an image, the name or the dose is missing.
        """
        item = dict(data)
        if self.name_key not in item:
            raise KeyError(f"the item has no entry {self.name_key!r} that would name its draw: add it.")
        dose = dose_of(self.dose, item)
        for key, noise_key in self.key_iterator(item, self.noise_keys):
            item[key], item[noise_key] = self.emulate(item[key], f"{key}/{item[self.name_key]}", dose)
        return item
