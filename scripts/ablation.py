"""Run a study on radiographs of your own: the paper's ablations, repeated with other splits and seeds, with intervals.

    python scripts/ablation.py --dataset_dir /data/xrays --output_dir output/study --tables modules images

What is trained with which options is in configs/protocol.json. Each run is one training and one evaluation; a finished
run is not made again, an interrupted one goes on, so the same command with more tables or seeds adds to what is there.
It leaves runs.csv, one row for each run, tables.md, whose differences are paired by seed, and for each table a picture
of the first seed's samples.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anatodiff.data import read_radiograph
from anatodiff.engines.pictures import save_grid
from anatodiff.engines.protocol import Table, Trial, options_from, plan, read_protocol, run_trials
from anatodiff.engines.sample_folder import SHEET_NAME
from anatodiff.files import replaced_when_whole
from anatodiff.metrics import paired_difference, student_interval

ROOT = Path(__file__).resolve().parents[1]
# measure -> heading, factor, digits; the paper's three first
COLUMNS = {
    "fid": ("FID ↓", 1, 1),
    "precision": ("IP ↑", 1, 2),
    "recall": ("IR ↑", 1, 2),
    "kid": ("KD x 1000 ↓", 1000, 0),
    "kid_radiographs": ("KD, shapes x 1000 ↓", 1000, 1),
    "density": ("density ↑", 1, 2),
    "coverage": ("coverage ↑", 1, 2),
    "ms_ssim": ("MS-SSIM ↓", 1, 3),
    "copy_rate": ("copies, % ↓", 100, 1),
}
PICTURE_COLUMNS = 8
Rows = list[dict[str, Any]]


def values_of(rows: Rows, arm: str, name: str) -> dict[int, float]:
    """Return one measure of one arm, by seed."""
    return {row["seed"]: row[name] for row in rows if row["arm"] == arm and row.get(name) is not None}


def layout(table: Table, rows: Rows) -> str:
    """Lay out means ± standard deviations as the paper does, then differences from the reference, paired by seed."""
    done = {row["arm"] for row in rows}
    arms = [arm for arm in table.arms if arm in done]
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    heads = f"| {{}} | {' | '.join(COLUMNS[name][0] for name in names)} |\n|{' --- |' * (len(names) + 1)}"
    lines = [f"## {table.title}", "", heads.format("mean ± standard deviation (runs)")]
    for arm in arms:
        found = [_spread(list(values_of(rows, arm, name).values()), name) for name in names]
        runs = sum(row["arm"] == arm for row in rows)
        lines.append(f"| {arm} ({runs}) | {' | '.join(found)} |")
    # Training images stand in for samples, and arms may have few of them: those of the reference tell most.
    judges = [row for row in rows if row["arm"] == table.reference] or rows
    real = [_spread([row[f"{name}_real"] for row in judges if f"{name}_real" in row], name) for name in names]
    lines.append(f"| real images in their place | {' | '.join(real)} |")
    lines += ["", heads.format(f"less {table.reference}, 95 % interval")]
    for arm in arms:
        if arm != table.reference and table.reference in done:
            cells = [_difference(rows, arm, table.reference, name) for name in names]
            lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float], name: str) -> str:
    if not values:
        return ""
    _, factor, digits = COLUMNS[name]
    deviation = f" ± {factor * np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{factor * np.mean(values):.{digits}f}{deviation}"


def _difference(rows: Rows, arm: str, reference: str, name: str) -> str:
    ours, theirs = values_of(rows, arm, name), values_of(rows, reference, name)
    if not ours.keys() & theirs.keys():
        return ""
    _, factor, digits = COLUMNS[name]
    found = paired_difference(ours, theirs)
    half = f" ± {factor * found.half:.{digits}f}" if np.isfinite(found.half) else " (one seed)"
    text = f"{factor * found.mean:+.{digits}f}{half}"
    return f"**{text}**" if found.excludes_zero else text


def noise_floor(rows: Rows, arm: str, other: str) -> str:
    """Say how far two arms that differ in chances alone are apart: what is smaller cannot be seen."""
    floor = []
    for name, (heading, factor, digits) in COLUMNS.items():
        ours, theirs = values_of(rows, arm, name), values_of(rows, other, name)
        seeds = sorted(ours.keys() & theirs.keys())
        if len(seeds) > 1:
            half = student_interval([ours[seed] - theirs[seed] for seed in seeds]).half
            floor.append(f"{heading.rstrip(' ↑↓')} {factor * half:.{digits}f}")
    if not floor:
        return "One seed cannot show how small a difference could be seen."
    return f"Smallest differences that {len(values_of(rows, arm, 'kid'))} seeds could show: {', '.join(floor)}."


def picture(table: Table, trials: list[Trial], path: Path) -> None:
    """Draw some samples of each arm that is done, of its first seed: those of one seed are from the same noise."""
    first = {trial.arm: trial.folder / "samples" for trial in reversed(trials) if trial.done}
    rows, titles = [], []
    for arm in table.arms:
        files = sorted(file for file in first[arm].glob("*.png") if file.name != SHEET_NAME) if arm in first else []
        if files:
            chosen = files[:: -(-len(files) // PICTURE_COLUMNS)]
            rows.append([torch.from_numpy(read_radiograph(file).pixels)[None] for file in chosen])
            titles.append(f"synthetic: {arm}")
    if rows:
        save_grid(path, rows, titles)


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns 0 where all runs are done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True, help="radiographs that no base has seen")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--cache_dir", type=Path, default=Path("output/cache"))
    parser.add_argument("--protocol", type=Path, default=ROOT / "configs" / "protocol.json")
    parser.add_argument("--tables", nargs="+", default=["modules"], help="of the protocol; 'all' takes every one")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the protocol's")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="OPTION=VALUE", help="option of train.json for all runs"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    protocol = read_protocol(options.protocol)
    names = list(protocol.tables) if options.tables == ["all"] else options.tables
    strange = [name for name in names if name not in protocol.tables]
    if strange:
        parser.error(f"no table {strange[0]!r} in {options.protocol}; there are {', '.join(protocol.tables)}")
    common: dict[str, Any] = {"dataset_dir": str(options.dataset_dir), "cache_dir": str(options.cache_dir)}
    common |= options_from(options.set)
    arms = [arm for name in names for arm in protocol.tables[name].arms]
    trials = plan(protocol, arms, options.output_dir, common, options.seeds)
    seeds = sorted({*protocol.seeds, *(options.seeds or [])})
    study = plan(protocol, protocol.arms, options.output_dir, common, seeds)
    try:
        run_trials(trials, ROOT / "configs", options.jobs, options.output_dir / "runs.csv", study)
        code = 0
    except RuntimeError as error:
        print(error, file=sys.stderr)
        code = 1
    rows = [trial.row() for trial in trials if trial.done]
    if not rows:
        return code
    for name in names:
        picture(protocol.tables[name], trials, options.output_dir / f"{name}.png")
    parts = [layout(protocol.tables[name], rows) for name in names]
    floor = {"DiffFit", "DiffFit, other chances"}
    if floor <= {row["arm"] for row in rows}:
        parts.insert(0, noise_floor(rows, *sorted(floor)))
    with replaced_when_whole(options.output_dir / "tables.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")
    print("\n\n".join(parts))
    return code


if __name__ == "__main__":
    sys.exit(main())
