"""Draw what several CT runs make of the same requests, row by row."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from anatodiff.data import DatasetError
from anatodiff.data.ct import read_ct, read_ct_mask, read_ct_noise
from anatodiff.engines import ct_window
from anatodiff.engines.pictures import save_grid

STEM = "sample_{:05d}"


def outlined(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Draw the border of a mask (S, S) in white over an image (1, S, S)."""
    inside = (mask > 0).float()[None, None]  # (1, 1, S, S)
    border = F.max_pool2d(inside, 3, 1, 1)[0] - inside[0]  # (1, S, S)
    return torch.maximum(image, border)  # (1, S, S)


def rows_of(
    runs: list[Path], numbers: list[int], window: str, plain: bool
) -> tuple[list[list[torch.Tensor]], list[str]]:
    """Read the rows of the picture: the requested noise, then the slices of each run, outlined or plain."""
    rows, titles = [], []
    for run in runs:
        row = []
        for number in numbers:
            stem = run / "samples" / STEM.format(number)
            path = Path(f"{stem}_ct.nii.gz")
            if not path.is_file():
                raise DatasetError(f"{path}: no such sample; give runs that sampled {max(numbers) + 1} slices or more")
            volume = read_ct(path)
            image = torch.from_numpy(ct_window(window).to_unit(volume.slices))  # (1, S, S)
            if not plain:
                mask = read_ct_mask(f"{stem}_seg.nii.gz", volume)[0].astype(np.int64)
                image = outlined(image, torch.from_numpy(mask))
            row.append(image)
        rows.append(row)
        titles.append(run.name)
    noise = [read_ct_noise(runs[0] / "samples" / f"{STEM.format(k)}_noise.nii.gz").slices for k in numbers]
    most = max(float(one.max()) for one in noise)
    rows.insert(0, [torch.from_numpy(one.copy()) / most for one in noise])
    return rows, [f"requested noise, to {most:.0f} HU", *titles]


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of CT trainings with the same seed")
    parser.add_argument("--numbers", type=int, nargs="+", default=list(range(6)), help="which samples")
    parser.add_argument("--window", default="abdomen", help="HU that are black and white, by name")
    parser.add_argument("--plain", action="store_true", help="no outlines: masks of patients are not to be shown")
    parser.add_argument("--output", type=Path, required=True, help="picture to write, .png")
    options = parser.parse_args(arguments)
    try:
        save_grid(options.output, *rows_of(options.runs, options.numbers, options.window, options.plain))
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
