"""Samples that are copies of training images are not released: they are counted and named, and never written."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from anatodiff.autoencoders import CTDataset, ImageDataset
from anatodiff.data import make_datalist
from anatodiff.engines.places import local_folder
from anatodiff.engines.privacy import controlled_detector, missed_ways
from anatodiff.engines.workflow import OptionError
from anatodiff.files import replaced_when_whole
from anatodiff.metrics import FeatureNetwork, ShippedFeatures

logger = logging.getLogger(__name__)

REFUSED_NAME = "refused.json"


class ReleaseError(ValueError):
    """Copies could not be told from other samples; the message says what was missed and the cure."""


@dataclass(frozen=True)
class Refused:
    """A sample that was not released.

    Args:
        sample: its file's name without ending.
        label: its class.
        number: within its class.
        view: "pixels" or "features", the one in which it is furthest beyond the threshold.
        similarity: cosine to the training image in that view.
        threshold: the largest that a held-out image has.
        training_image: name of the file that it is a copy of.
        mirrored: whether the mirror image is nearer.
    """

    sample: str
    label: str
    number: int
    view: str
    similarity: float
    threshold: float
    training_image: str
    mirrored: bool


class CopyRefusal:
    """Tells which samples are copies, as the evaluation does, and keeps the list of those.

    The thresholds are the largest similarities of held-out images, so some new images are refused, too: as many as one
    more held-out image would be nearest by chance.

    Args:
        training: all images that the network was trained on.
        held_out: images of other patients.
        features: describes the images; the other view is their pixels.
        seed: of the noise of the planted copies.

    Raises:
        ReleaseError: planted copies were not found, so that the check would prove nothing.
    """

    def __init__(
        self,
        training: ImageDataset | CTDataset,
        held_out: ImageDataset | CTDataset,
        features: FeatureNetwork,
        seed: int = 0,
    ) -> None:
        self.names = [Path(item["image"]).name for item in training.items]
        self.n_held_out = len(held_out)
        self.detector, self.caught = controlled_detector(features, training.images, held_out.images, seed)
        missed = missed_ways(self.caught)
        if missed:
            raise ReleaseError(
                f"the search for copies would prove nothing: planted copies ({', '.join(missed)}) were not found; give "
                "held_out_dir more images, of patients that were not trained on"
            )
        self.refused: list[Refused] = []

    def is_copy(self, image: torch.Tensor, sample: str, label: str, number: int) -> bool:
        """Tell whether a sample is a copy, and remember and log it if so.

        Args:
            image: (1, H, W) in [0, 1].
            sample: its file's name without ending.
            label: its class.
            number: within its class.
        """
        found = self.detector(image[None].float().cpu())
        if not bool(found.copied):
            return False
        excess = {view: float(found.similarity[view]) - limit for view, limit in self.detector.largest.items()}
        view = max(excess, key=lambda name: excess[name])
        refused = Refused(
            sample,
            label,
            number,
            view,
            float(found.similarity[view]),
            self.detector.largest[view],
            self.names[int(found.index[view])],
            bool(found.mirrored[view]),
        )
        self.refused.append(refused)
        logger.warning(
            "%s is not released: a copy of %s by %s, similarity %.3f where held-out images reach %.3f",
            sample, refused.training_image, view, refused.similarity, refused.threshold,
        )  # fmt: skip
        return True

    def write(self, folder: Path, of: int) -> None:
        """Write `refused.json`, which names files of patients and is not for release, and log the count.

        Args:
            folder: where the samples are.
            of: how many samples there were, the refused ones included.
        """
        record = {
            "samples": of,
            "training_images": len(self.names),
            "held_out_images": self.n_held_out,
            "thresholds": self.detector.largest,
            "planted_copies_found": self.caught,
            "refused": [asdict(refused) for refused in self.refused],
        }
        with replaced_when_whole(folder / REFUSED_NAME) as temporary:
            temporary.write_text(json.dumps(record, indent=1))
        logger.info(
            "%d of %d samples were refused as copies, see %s, which names training images", len(self.refused), of,
            REFUSED_NAME,
        )  # fmt: skip


def copy_refusal(
    refuse_copies_of: str | Path | None,
    held_out_dir: str | Path | None,
    image_size: int,
    cache_dir: str | Path,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> CopyRefusal | None:
    """Prepare the search for copies among samples; None where it is not asked for.

    Args:
        refuse_copies_of: folder of the images that the network was trained on.
        held_out_dir: folder of real images of other patients, which fix the thresholds.
        image_size: side of the samples, in pixels.
        cache_dir: folder of the caches.
        device: where to compute the features.
        seed: of the noise of the planted copies.

    Returns:
        the search, its positive control passed.

    Raises:
        OptionError: one folder without the other.
        DatasetError: a folder cannot be used.
        ReleaseError: planted copies were not found.
    """
    if not asks_for_refusal(refuse_copies_of, held_out_dir):
        return None
    # Images with burned-in annotation, too: a search for copies must see all that the training may have seen.
    training, held_out = (
        ImageDataset(make_datalist(folder, test_fraction=0, allow_burned_in=True).train, image_size, cache_dir)
        for folder in (
            local_folder(place, cache_dir) for place in (refuse_copies_of, held_out_dir) if place is not None
        )
    )
    return CopyRefusal(training, held_out, ShippedFeatures(device=device), seed)


def asks_for_refusal(refuse_copies_of: str | Path | None, held_out_dir: str | Path | None) -> bool:
    """Tell whether copies are to be refused.

    Args:
        refuse_copies_of: folder of the images that the network was trained on.
        held_out_dir: folder of real images of other patients.

    Raises:
        OptionError: one folder without the other.
    """
    if (refuse_copies_of is None) != (held_out_dir is None):
        missing = "refuse_copies_of" if refuse_copies_of is None else "held_out_dir"
        raise OptionError(f"{missing} is missing: give both refuse_copies_of and held_out_dir, or none of them")
    return refuse_copies_of is not None
