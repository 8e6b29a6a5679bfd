"""Splits and samples of patients that depend on nothing but the seed and the patients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256

Pairs = Sequence[tuple[str, str]]
PARTS = ("train", "validation", "test")


def split_patients(images: Pairs, test_fraction: float, seed: int) -> set[str]:
    """Choose the patients to hold out, class by class.

    Args:
        images: (patient, class) of each image; a patient with images of several classes counts to the commonest.
        test_fraction: share of each class's images to hold out, in [0, 1).
        seed: of the order of the patients.

    Returns:
        The patients to hold out: none for a share of 0, else at least one and never all of them.
    """
    strata = _strata(images, seed)
    sizes = Counter(patient for patient, _ in images)
    held_out: set[str] = set()
    for patients in strata.values():
        wanted = test_fraction * sum(sizes[patient] for patient in patients)
        held_out |= set(_take(patients, sizes, wanted, overshoot=0.5))
    order = _order(sizes, seed)
    if test_fraction > 0 and not held_out:
        held_out = {order[0]}
    if len(held_out) == len(order):
        held_out.discard(order[-1])
    return held_out


def limit_patients(images: Pairs, max_images: int, seed: int) -> set[str]:
    """Choose patients with at most `max_images` images in all, in the proportions of the classes.

    Args:
        images: (patient, class) of each image.
        max_images: the most images to keep.
        seed: of the order of the patients.

    Returns:
        The patients to keep.
    """
    strata = _strata(images, seed)
    sizes = Counter(patient for patient, _ in images)
    if len(images) <= max_images:
        return set(sizes)
    share = max_images / len(images)
    kept: list[str] = []
    for patients in strata.values():
        kept += _take(patients, sizes, share * sum(sizes[patient] for patient in patients), overshoot=0.0)
    # Rounding leaves places: fill them, the class with the fewest images first, so that no class is lost.
    left = max_images - sum(sizes[patient] for patient in kept)
    taken = {name: sum(sizes[p] for p in patients if p in kept) for name, patients in strata.items()}
    for name in sorted(strata, key=lambda name: (taken[name], name)):
        for patient in strata[name]:
            if patient not in kept and sizes[patient] <= left:
                kept.append(patient)
                left -= sizes[patient]
                break
    return set(kept)


def _strata(images: Pairs, seed: int) -> dict[str, list[str]]:
    """The patients of each class in a fixed random order."""
    labels: dict[str, Counter[str]] = {}
    for patient, label in images:
        labels.setdefault(patient, Counter())[label] += 1
    strata: dict[str, list[str]] = {}
    for patient in _order(labels, seed):
        commonest = min(labels[patient], key=lambda label: (-labels[patient][label], label))
        strata.setdefault(commonest, []).append(patient)
    return dict(sorted(strata.items()))


def _order(patients: Iterable[str], seed: int) -> list[str]:
    return sorted(patients, key=lambda patient: sha256(f"{seed}:{patient}".encode()).digest())


def _take(patients: list[str], sizes: Counter[str], wanted: float, overshoot: float) -> list[str]:
    """Take patients in order while they fit; one may exceed `wanted` by the share `overshoot` of its images."""
    taken: list[str] = []
    total = 0
    for patient in patients:
        if total + (1 - overshoot) * sizes[patient] <= wanted + 1e-9:
            taken.append(patient)
            total += sizes[patient]
    return taken


def hashed_part(patient: str) -> str:
    """Assign a patient to a part by a hash of the identifier alone, so that every later data set splits alike.

    The first 8 hexadecimal digits of the SHA-256 of the identifier in UTF-8, as a number modulo 8: 0 is "test", 1 is
    "validation", 2 to 7 are "train". One patient in eight goes to each of the first two on average.

    Args:
        patient: identifier of a patient, or of a group of images that must stay together.

    Returns:
        a name in `PARTS`.
    """
    remainder = int(sha256(patient.encode()).hexdigest()[:8], 16) % 8
    return {0: "test", 1: "validation"}.get(remainder, "train")
