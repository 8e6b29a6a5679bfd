"""Write varied versions of a few real radiographs, so that a base learns from them and not by heart.

    python scripts/augment_radiographs.py --dataset_dir /data/xrays --output_dir /data/varied --licences "CC BY"

Each version is turned, scaled, shifted and toned a little; none is mirrored, since laterality is anatomy. The folder
gets a `labels.csv` with the patients of the originals, ready for `extra_dir` of pretrain.json and
train_autoencoder.json.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Compose, RandAdjustContrast, RandAffine
from PIL import Image
from tqdm import tqdm

from anatodiff.data import DatasetError, read_radiograph
from anatodiff.data.listing import LABELS_FILE
from anatodiff.files import replaced_when_whole
from anatodiff.transforms import ResizeShortSide

ROTATION = 0.09  # radians to either side, about 5 degrees
SCALE = 0.12  # share of the size, to either side
SHIFT = 0.05  # share of the short side, to either side
TONE = (0.8, 1.25)  # gamma


def chosen_rows(dataset_dir: Path, licences: list[str] | None) -> list[dict[str, str]]:
    """Read the rows of labels.csv whose licence begins with one of the names and forbids no use.

    Args:
        dataset_dir: folder with a labels.csv that has the columns file, patient_id and, if chosen by it, licence.
        licences: licences by name, versions left out ("CC BY" also takes "CC BY 4.0"); None takes every row.

    Returns:
        the rows.

    Raises:
        DatasetError: no row is left.
    """
    with open(dataset_dir / LABELS_FILE, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if licences is not None:
        # "CC BY 4.0" is "CC BY" in a version; "CC BY-NC" is another licence.
        rows = [row for row in rows if row.get("licence", "").strip().rstrip(".0123456789").strip() in licences]
    if not rows:
        raise DatasetError(f"{dataset_dir / LABELS_FILE}: no row has a licence out of {licences}; give others")
    return rows


def variation(size: int, seed: int) -> Compose:
    """Compose the random changes of an image whose short side is `size` pixels."""
    shift = SHIFT * size
    affine = RandAffine(
        prob=1, rotate_range=ROTATION, scale_range=(SCALE, SCALE), translate_range=(shift, shift),
        mode=3, padding_mode="nearest",  # a cubic spline: linear interpolation would blur
    )  # fmt: skip
    return Compose([affine, RandAdjustContrast(prob=1, gamma=TONE)]).set_random_state(seed)


def write_versions(dataset_dir: Path, output_dir: Path, rows: list[dict[str, str]], options: argparse.Namespace) -> int:
    """Write all versions of all rows and, last, labels.csv; returns the number of images."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "patient_id", "label", "domain", "original", "licence", "source"])
    resize, change = ResizeShortSide(options.size), variation(options.size, options.seed)
    output_dir.mkdir(parents=True, exist_ok=True)
    count = 0
    for row in tqdm(rows, "images"):
        pixels = torch.as_tensor(read_radiograph(dataset_dir / row["file"]).pixels)[None]  # (1, H, W)
        image = resize(pixels)
        for version in range(options.versions):
            name = f"{Path(row['file']).stem}_{version:03d}.png"
            varied = np.asarray(change(image) if version else image)[0].clip(0, 1)  # (H, W); the first as it is
            # By Pillow: what write_radiograph makes says of itself that it is synthetic, and these are patients.
            Image.fromarray((255 * varied).round().astype(np.uint8)).save(output_dir / name)
            rest = [row["file"], row.get("licence", ""), row.get("source", "")]
            writer.writerow([name, row["patient_id"], options.label, options.domain, *rest])
            count += 1
    with replaced_when_whole(output_dir / LABELS_FILE) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    return count


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder with labels.csv")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--licences", nargs="+", help='by name without version, e.g. "CC BY" "CC BY-SA"; without: all')
    parser.add_argument("--only", default="", help="take only files whose name begins so")
    parser.add_argument("--versions", type=int, default=12, help="of each image, the first as it is")
    parser.add_argument("--domain", default="chest radiograph")
    parser.add_argument("--label", default="frontal")
    parser.add_argument("--size", type=int, default=288, help="short side, pixels")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        rows = chosen_rows(options.dataset_dir, options.licences)
        rows = [row for row in rows if row["file"].startswith(options.only)]
        count = write_versions(options.dataset_dir, options.output_dir, rows, options)
    except (DatasetError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    patients = len({row["patient_id"] for row in rows})
    print(f"wrote {count} versions of {len(rows)} images of {patients} patients to {options.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
