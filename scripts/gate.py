"""Is a base worth fine-tuning? DiffFit from it against DiffFit on random weights and training from scratch.

    python scripts/gate.py --dataset_dir /data/xrays --output_dir output/gate [--base shipped=models/dit.safetensors]

Every run has the same images, steps and evaluation; the seeds also change the split by patient. The kernel distance to
held-back images is in the scale of docs/quality_scale.md. A finished run is not made again, an interrupted one goes on.
A base passes where the interval of the paired difference lies below zero against both.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from anatodiff.engines.protocol import run_workflow, write_rows
from anatodiff.metrics import paired_difference, student_interval
from anatodiff.networks import DiT, load_base, save_base

ROOT = Path(__file__).resolve().parents[1]
ZERO_LAYERS_DEVIATION = 0.02  # of layers that start at zero: DiffFit could do nothing behind a zero
RESULT = "quality.json"


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        name: in the table.
        base: weights to start from; None draws random ones.
        mode: "difffit" or "full".
        learning_rate: of AdamW.
        start_class: class of the base to start from, or None.
    """

    name: str
    base: Path | None
    mode: str
    learning_rate: float
    start_class: str | None = None


def random_base(path: Path, like: Path | None, seed: int, shaken: bool) -> Path:
    """Write a base of random weights in the shape of another one.

    Args:
        path: file to write; an existing one is kept.
        like: the base whose shape, latent scale and schedule it gets; None is the shipped one.
        seed: of its weights.
        shaken: also draw the layers that start at zero.

    Returns:
        the path.
    """
    if path.is_file():
        return path
    base = load_base(like)
    torch.manual_seed(seed)
    network = DiT(**base.network.settings)
    if shaken:
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=ZERO_LAYERS_DEVIATION)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_base(path, replace(base, network=network), {"random weights of seed": seed, "zero layers drawn": shaken})
    return path


def run(arm: Arm, seed: int, options: argparse.Namespace) -> dict[str, float | str]:
    """Train and measure one arm with one seed, unless it is done; returns a row of the table."""
    folder = options.output_dir / arm.name / f"seed{seed}"
    base = arm.base
    if base is None:
        like = next(iter(options.bases.values()))
        name = f"random-{arm.mode}-{seed}.safetensors"
        base = random_base(options.output_dir / name, like, seed, shaken=arm.mode != "full")
    settings = {
        "dataset_dir": str(options.dataset_dir), "output_dir": str(folder), "cache_dir": str(options.cache_dir),
        "seed": seed, "base_path": str(base), "finetuning": arm.mode, "learning_rate": arm.learning_rate,
        "test_fraction": options.test_fraction, "max_epochs": 2, "epoch_length": options.steps // 2,
        "val_interval": 2, "n_prototypes": 0, "topology_weight": 0.0, "preview_images": 0,
        "sampling_steps": options.sampling_steps, "samples_per_class": options.samples_per_class,
    }  # fmt: skip
    if arm.start_class is not None:
        settings["start_class"] = arm.start_class
    if not (folder / RESULT).is_file():
        started = time.monotonic()
        run_workflow(ROOT / "configs/train.json", "training", settings, folder / "log.txt")
        print(f"{arm.name}, seed {seed}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    distance = json.loads((folder / RESULT).read_text())["kernel_distance"]
    return {
        "arm": arm.name, "seed": seed, "kernel_distance": distance["after"]["value"],
        "stderr": distance["after"]["stderr"], "before": distance["before"]["value"],
        "real": distance["real"]["value"],
    }  # fmt: skip


def table(rows: list[dict], references: list[str]) -> str:
    """Lay out the means and, for each other arm, its paired differences from the references."""
    arms = {arm: _by_seed(rows, arm) for arm in dict.fromkeys(row["arm"] for row in rows)}
    heads = ["arm", "KD x 1000", *(f"less {name}" for name in references)]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for name, values in arms.items():
        cells = [name, "{:.0f} ± {:.0f}".format(*(1e3 * number for number in student_interval(list(values.values()))))]
        for reference in references:
            mean, half = paired_difference(values, arms[reference])
            cells.append("" if name == reference else f"{1e3 * mean:.0f} ± {1e3 * half:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def passes(rows: list[dict], name: str, references: list[str]) -> bool:
    """Tell whether an arm is below both references, with its interval."""
    return all(sum(paired_difference(_by_seed(rows, name), _by_seed(rows, other))) < 0 for other in references)


def _by_seed(rows: list[dict], arm: str) -> dict[int, float]:
    return {row["seed"]: row["kernel_distance"] for row in rows if row["arm"] == arm}


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns 0 where every base passes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True, help="radiographs that no base has seen")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--cache_dir", type=Path, default=Path("output/cache"))
    parser.add_argument("--base", nargs="+", default=[], metavar="NAME=FILE", help="without: the shipped one")
    parser.add_argument("--start_class", help="class of the bases to start from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600, help="of 16 images")
    parser.add_argument("--test_fraction", type=float, default=0.375)
    parser.add_argument("--samples_per_class", type=int, default=100)
    parser.add_argument("--sampling_steps", type=int, default=50)
    parser.add_argument("--learning_rate", type=float, default=4e-3, help="of DiffFit")
    parser.add_argument("--full_learning_rate", type=float, default=1e-3, help="of training from scratch")
    options = parser.parse_args(arguments)
    options.bases = {name: Path(file) for name, file in (part.split("=", 1) for part in options.base)}
    options.bases = options.bases or {"shipped": ROOT / "models" / "dit.safetensors"}
    references = ["random weights, DiffFit", "from scratch, all weights"]
    arms = [Arm(f"{name}, DiffFit", file, "difffit", options.learning_rate, options.start_class)
            for name, file in options.bases.items()]  # fmt: skip
    arms.append(Arm(references[0], None, "difffit", options.learning_rate))
    arms.append(Arm(references[1], None, "full", options.full_learning_rate))
    rows = []
    for seed in options.seeds:
        for arm in arms:
            rows.append(run(arm, seed, options))
            write_rows(options.output_dir / "gate.csv", rows)
    print(table(rows, references))
    verdicts = {arm.name: passes(rows, arm.name, references) for arm in arms[: len(options.bases)]}
    for name, verdict in verdicts.items():
        print(f"{name}: {'passes' if verdict else 'does NOT pass'}")
    return 0 if all(verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
