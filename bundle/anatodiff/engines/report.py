"""The report of an evaluation: one HTML file with all that it found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anatodiff import __version__
from anatodiff.engines.privacy import Privacy
from anatodiff.metrics import Measure, radial_spectrum
from anatodiff.report import (
    Figure,
    Table,
    diagrams_figure,
    embedding_figure,
    grid_figure,
    losses_figure,
    spectrum_figure,
    write_page,
)

SHOWN = 8  # images in a row
DIAGRAMS = 32  # images of each kind whose diagrams are drawn
GOOD = 0.15  # kernel distance beyond which samples are not radiographs of this kind yet, in the shipped features
INTERVAL = 1.96  # standard errors
# File of a run folder -> title, and what to say of it.
RUN_PICTURES = {
    "prepared.png": ("What the run was trained on", ""),
    "prototypes.png": (
        "Shape prototypes",
        " Centres of clusters of the training images (binarized, unless threshold was null), of the largest clusters "
        "first: what the network attends to. The centre of a cluster of one, sharp beside the others, is one patient.",
    ),
    "before_after.png": ("Before and after", ""),
}
SHARES = {"precision", "recall", "coverage", "copy_rate", "suspicious_rate", "authenticity"}
TITLES = {
    "kid": "kernel distance (KID)", "kid_radiographs": "KID by the network of radiographs",
    "fid": "Frechet distance (FID)", "fid_infinity": "FID, extrapolated",
    "cmmd": "CMMD", "precision": "precision", "recall": "recall", "density": "density", "coverage": "coverage",
    "ms_ssim": "likeness in pairs (MS-SSIM)", "lpips": "unlikeness in pairs (LPIPS)",
    "seam_index": "seam index", "spectrum": "spectrum, decades off", "copy_rate": "copies",
    "suspicious_rate": "suspiciously near",
    "authenticity": "authenticity", "membership_auc": "membership, AUC", "membership_tpr": "members found at 1 %",
    "model_membership_auc": "membership by the model, AUC", "model_membership_tpr": "members found by it at 1 %",
}  # fmt: skip


@dataclass(frozen=True)
class Evaluated:
    """All that an evaluation found.

    Args:
        images: "real" (reference), "training" (as many as there are samples), "all training" and "synthetic",
            (N, 1, H, H) each.
        features: of the first two and the last, (N, D) each.
        synthetic: measures of the samples by name.
        real: measures of training images in their place.
        privacy: what the samples give away.
        settings: as in `evaluation.json`.
        run_dir: folder of the run that made the samples; its losses and prototypes are shown if they are there.
    """

    images: dict[str, torch.Tensor]
    features: dict[str, torch.Tensor]
    synthetic: dict[str, Measure]
    real: dict[str, Measure]
    privacy: Privacy
    settings: dict[str, Any]
    run_dir: Path


def write_report(path: Path, found: Evaluated) -> None:
    """Write the report; it shows patients (reference and training images), and says so.

    Args:
        path: .html file to write.
        found: what the evaluation found.
    """
    privacy = found.privacy
    counts = {name: len(images) for name, images in found.images.items()}
    summary = [
        f"{counts['synthetic']} synthetic images against {counts['real']} reference images of other patients than the "
        f"{found.settings['training_images']['of']} training images. In each row of numbers, real images in the place "
        "of the synthetic ones say what can be reached at all.",
        _quality(found),
        f"Privacy: {privacy.verdict()}.",
        "This page shows images of patients. It is for those who may see them.",
    ]
    warning = None if privacy.clean else privacy.verdict()
    parts: list[Figure | Table] = [
        _measures(found),
        *_pictures(found),
        *_plots(found),
        _controls(privacy),
        _settings(found),
    ]
    write_page(path, "Synthetic radiographs: quality, diversity and copies", summary, parts, warning)


def _quality(found: Evaluated) -> str:
    kid = found.synthetic["kid"]
    assert kid.stderr is not None  # always has one
    low, high = (1000 * (kid.value + sign * INTERVAL * kid.stderr) for sign in (-1, 1))
    text = f"Kernel distance (times 1,000): {1000 * kid.value:.0f}, 95 % interval {low:.0f} to {high:.0f}."
    if kid.value > GOOD and found.settings["features"]["name"].startswith("EfficientNet-Lite0"):
        text += f" Beyond {1000 * GOOD:.0f}, samples are not radiographs of this kind yet."
    return text


def _measures(found: Evaluated) -> Table:
    rows = [
        [TITLES[name], *_cells(measure, name in SHARES), *_cells(found.real.get(name), name in SHARES)]
        for name, measure in found.synthetic.items()
    ]
    return Table(
        "Measures",
        ["", "synthetic", "95 % interval", "real", "95 % interval"],
        rows,
        "Kernel, Frechet and CMMD distances: smaller is nearer. FID only beside that of the real images: with some "
        "hundred images it is mostly bias. Precision: samples that look real; recall and coverage: real images that "
        "samples reach; MS-SSIM: likeness of random pairs, higher is less diverse; LPIPS, where "
        "its files were given: their distance, higher is more diverse; seam index: change across the borders of the "
        "network's tokens over that elsewhere, 1 is no seam. In copies and what follows, the "
        "reference images stand in for the samples as the real ones.",
    )


def _cells(measure: Measure | None, is_share: bool) -> list[str]:
    if measure is None:
        return ["", ""]
    if measure.stderr is None:
        return [f"{measure.value:.4g}", ""]
    low, high = (measure.value + sign * INTERVAL * measure.stderr for sign in (-1, 1))
    if is_share:
        low, high = max(low, 0.0), min(high, 1.0)
    return [f"{measure.value:.4g}", f"{low:.3g} to {high:.3g}"]


def _pictures(found: Evaluated) -> list[Figure]:
    images, privacy = found.images, found.privacy
    rows = [images[name][:SHOWN] for name in ("real", "synthetic")]
    nearest = privacy.worst()[:SHOWN]
    index = torch.tensor([k for k, _ in nearest])
    near = torch.tensor([int(privacy.found.index[view][k]) for k, view in nearest])
    figures = [
        Figure(
            "Real and synthetic", grid_figure(rows), "Above reference images, below synthetic ones, the first of each."
        ),
        Figure(
            "Nearest training images",
            grid_figure([images["synthetic"][index], images["all training"][near]]),
            "Above the synthetic images that are nearest to a training image, below that image: copies show here.",
        ),
    ]
    for name, (title, text) in RUN_PICTURES.items():
        if (found.run_dir / name).is_file():
            figures.append(Figure(title, (found.run_dir / name).read_bytes(), f"{name} of the run.{text}"))
    return figures


def _plots(found: Evaluated) -> list[Figure]:
    spectra = {name: radial_spectrum(found.images[name]) for name in ("real", "training", "synthetic")}
    each = min(DIAGRAMS, *(len(found.images[name]) for name in ("real", "synthetic")))
    drawn = {name: found.images[name][:each] for name in ("real", "synthetic")}
    figures = [
        Figure(
            "Spectrum",
            spectrum_figure(spectra),
            "Power by fineness; the bands are one standard deviation of the images.",
        ),
        Figure(
            "Features", embedding_figure(found.features), "In the plane of the real images' first principal components."
        ),
        Figure(
            "Persistence diagrams",
            diagrams_figure(drawn),
            f"Of {each} images of each kind at 64 x 64: dark components at the left, bright islands at the right. "
            "Points far from the diagonal are what lasts.",
        ),
    ]
    losses = losses_figure(found.run_dir / "losses.csv")
    if losses is not None:
        figures.append(Figure("Losses of the run", losses, "Each step in grey, a running mean in blue."))
    return figures


def _controls(privacy: Privacy) -> Table:
    rows = [[way, f"{100 * share:.0f} %"] for way, share in privacy.caught.items()]
    text = (
        "Training images that were planted among the samples; where fewer than 95 % of one kind are found, the search "
    )
    return Table(
        "Positive control: planted copies that were found", ["planted", "found"], rows, text + "proves nothing."
    )


def _settings(found: Evaluated) -> Table:
    flat = {"anatodiff": __version__, "torch": torch.__version__}
    for name, value in found.settings.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{name} {key}".strip(): str(part) for key, part in inner}
    return Table("To do it again", ["setting", "value"], [[name, str(value)] for name, value in flat.items()])
