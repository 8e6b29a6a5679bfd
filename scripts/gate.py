"""Which base, and which mode of fine-tuning, is worth its minutes: runs of equal time on images that no base has seen.

    python scripts/split_folder.py --dataset_dir /data/xrays --output_dir parts --parts test=320 pool=rest
    python scripts/gate.py --dataset_dir parts/pool --output_dir output/gate --minutes 30 --arms all
    python scripts/gate.py --dataset_dir parts/pool --output_dir output/gate --minutes 30 --arms all --final parts/test

The arms are those of configs/gate.json. Each seed divides the patients of the pool into training and validation anew,
and every choice is made by the validation part (validation.csv); `--final` measures the same samples against the test
part, which is the same for all seeds and is for the table at the end (final.csv). The minutes are those of the training
steps, whose time is measured beforehand (steps.json). A finished run is not made again, an interrupted one goes on.
A base passes where its first arm's paired difference in kernel distance lies, with its interval, below zero against
random weights and against training from scratch.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser

from anatodiff.data import find_radiographs, make_datalist
from anatodiff.engines.protocol import (
    Protocol,
    Trial,
    options_from,
    plan,
    read_protocol,
    run_trials,
    run_workflow,
    write_rows,
)
from anatodiff.files import replaced_when_whole
from anatodiff.metrics import Interval, paired_difference, student_interval
from anatodiff.networks import DiT, load_base, save_base
from split_folder import write_part

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
ZERO_LAYERS_DEVIATION = 0.02  # of layers that start at zero: DiffFit could do nothing behind a zero
REFERENCES = ("random weights, DiffFit", "from scratch, all weights")
RANDOM, SHAKEN = "random_base", "shaken"  # key of an arm, and its value that also draws layers that start at zero
STEPS_NAME = "steps.json"
FINAL_FOLDER = "final"
TIMED_STEPS, WARM_UP = 16, 4
# measure -> heading, factor, digits
COLUMNS = {
    "kid": ("KD x 1000 ↓", 1000, 0), "recall": ("recall ↑", 1, 2), "precision": ("precision ↑", 1, 2),
    "seam_index": ("seam index", 1, 2), "copy_rate": ("copies, %", 100, 1),
    "validation_loss": ("validation loss ↓", 1, 4),
}  # fmt: skip
Rows = list[dict[str, Any]]


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


def arms_of(protocol: Protocol, names: Sequence[str], bases: dict[str, Path]) -> Protocol:
    """Give each arm that starts from a base a name and options for each base.

    Args:
        protocol: the study.
        names: arms to keep.
        bases: files by name.

    Returns:
        the study with these arms; those of random weights have the first base's shape.
    """
    arms: dict[str, dict[str, Any]] = {}
    for base, file in bases.items():
        arms |= {f"{base}, {name}": {**protocol.arms[name], "base_path": str(file)}
                 for name in names if RANDOM not in protocol.arms[name]}  # fmt: skip
    first = str(next(iter(bases.values())))
    arms |= {name: {**protocol.arms[name], "base_path": first} for name in names if RANDOM in protocol.arms[name]}
    return replace(protocol, arms=arms)


def with_base(trial: Trial, output_dir: Path) -> Trial:
    """Give a run on random weights its base; all other runs stay as they are."""
    training = dict(trial.training)
    kind = training.pop(RANDOM, None)
    if kind is not None:
        path = output_dir / f"random-{kind}-{trial.seed}.safetensors"
        training["base_path"] = str(random_base(path, Path(training["base_path"]), trial.seed, kind == SHAKEN))
    return replace(trial, training=training)


def step_seconds(training: dict[str, Any]) -> float:
    """Time a training step.

    Args:
        training: options of train.json.

    Returns:
        seconds, of the processor's time on one CPU thread, which other programs disturb little, else of the clock.
    """
    with tempfile.TemporaryDirectory() as folder:
        parser = ConfigParser()
        parser.read_config(str(CONFIGS / "train.json"))
        parser.update({
            **training, "bundle_root": str(ROOT), "output_dir": folder, "max_epochs": 1, "epoch_length": TIMED_STEPS,
            "val_interval": 2, "preview_images": 0, "checkpoint_every": 2 * TIMED_STEPS,
        })  # fmt: skip
        trainer = parser.get_parsed_content("train::trainer")
        alone = torch.get_num_threads() == 1 and torch.device(trainer.state.device).type == "cpu"
        clock = time.process_time if alone else time.perf_counter
        times: list[float] = []
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: times.append(clock()))
        trainer.run()
    return median(after - before for before, after in zip(times[WARM_UP:], times[WARM_UP + 1 :], strict=False))


def steps_within(minutes: float, trial: Trial, path: Path) -> int:
    """Count the steps of an arm in so many minutes; its step is timed once for all seeds and kept in a file."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    if trial.arm not in known:
        known[trial.arm] = step_seconds(trial.training)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_when_whole(path) as temporary:
            temporary.write_text(json.dumps(known, indent=1))
    return int(60 * minutes / known[trial.arm])


def with_steps(trial: Trial, steps: int) -> Trial:
    """Set the number of batches of a run."""
    epochs = trial.training["max_epochs"]
    return replace(trial, training={**trial.training, "epoch_length": max(1, steps // epochs)})


def measure_final(trial: Trial, test_dir: Path) -> Trial:
    """Measure the samples of a finished run against the test part, unless that is done.

    Args:
        trial: the run.
        test_dir: folder of the test part.

    Returns:
        where its numbers are.
    """
    final = replace(trial, folder=trial.folder / FINAL_FOLDER)
    if not final.done:
        split = {name: trial.evaluation[name] for name in ("test_fraction", "max_train_images", "max_images")
                 if name in trial.evaluation}  # fmt: skip
        source = Path(trial.evaluation["dataset_dir"])
        rows = make_datalist(source, seed=trial.seed, **split).train
        trained = {str(row["image"]) for row in rows}
        part = trial.folder.parents[1] / "training" / f"seed{trial.seed}"
        write_part(part, [item for item in find_radiographs(source) if str(item.file) in trained], source)
        options = {key: value for key, value in trial.evaluation.items() if key not in {*split, "dataset_dir"}}
        options |= {"train_dir": str(part), "reference_dir": str(test_dir), "output_dir": str(final.folder)}
        run_workflow(CONFIGS / "evaluate.json", "run", options, trial.folder / "log.txt")
    return final


def validation_loss(trial: Trial) -> dict[str, float]:
    """Read the last validation loss of a run's log; empty where it has none."""
    log = trial.folder / "log.txt"
    found = re.findall(r"validation loss (\d+\.\d+)", log.read_text()) if log.is_file() else []
    return {"validation_loss": float(found[-1])} if found else {}


def table(rows: Rows, references: Sequence[str]) -> str:
    """Lay out the means and, for each other arm, its paired differences in kernel distance from the references."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    shown = [reference for reference in references if reference in arms]
    heads = ["arm", *(COLUMNS[name][0] for name in names), *(f"KD less {name}" for name in shown)]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for arm in arms:
        cells = [_cell(student_interval(list(_by_seed(rows, arm, name).values())), name) for name in names]
        cells += ["" if arm == other else _cell(_difference(rows, arm, other), "kid") for other in shown]
        lines.append(f"| {' | '.join([arm, *cells])} |")
    real = [_cell(Interval(rows[0][f"{name}_real"], float("inf")), name) if f"{name}_real" in rows[0] else ""
            for name in names]  # fmt: skip
    return "\n".join([*lines, f"| {' | '.join(['real images in their place', *real, *[''] * len(shown)])} |"])


def _cell(found: Interval, name: str) -> str:
    _, factor, digits = COLUMNS[name]
    half = "" if found.half == float("inf") else f" ± {factor * found.half:.{digits}f}"  # one seed has no interval
    return f"{factor * found.mean:.{digits}f}{half}"


def passes(rows: Rows, name: str, references: Sequence[str]) -> bool:
    """Tell whether an arm is below all references, with its interval."""
    return all(sum(_difference(rows, name, other)) < 0 for other in references)


def _difference(rows: Rows, arm: str, other: str) -> Interval:
    return paired_difference(_by_seed(rows, arm, "kid"), _by_seed(rows, other, "kid"))


def _by_seed(rows: Rows, arm: str, name: str) -> dict[int, float]:
    return {row["seed"]: row[name] for row in rows if row["arm"] == arm and name in row}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True, help="radiographs that no base has seen")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--cache_dir", type=Path, default=Path("output/cache"))
    parser.add_argument("--base", nargs="+", default=[], metavar="NAME=FILE", help="without: the shipped one")
    parser.add_argument("--protocol", type=Path, default=CONFIGS / "gate.json")
    parser.add_argument("--arms", nargs="+", default=["DiffFit", *REFERENCES], help="of the protocol, or all")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the protocol's")
    parser.add_argument("--steps", type=int, default=600, help="batches of each run")
    parser.add_argument("--minutes", type=float, help="of each run's steps, instead of --steps")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores")
    parser.add_argument("--final", type=Path, metavar="FOLDER", help="also measure against the test part: once")
    parser.add_argument("--set", nargs="+", default=[], metavar="OPTION=VALUE", help="of train.json, for all runs")
    options = parser.parse_args(arguments)
    bases = {name: Path(file) for name, file in (part.split("=", 1) for part in options.base)}
    options.bases = bases or {"shipped": ROOT / "models" / "dit.safetensors"}
    study = read_protocol(options.protocol)
    options.arms = list(study.arms) if options.arms == ["all"] else options.arms
    strange = [name for name in options.arms if name not in study.arms]
    if strange:
        parser.error(f"no arm {strange[0]!r} in {options.protocol}; there are {', '.join(study.arms)}")
    options.protocol = study
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns 0 where every base passes, or nothing was to be passed."""
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    study = arms_of(options.protocol, options.arms, options.bases)
    common = {"dataset_dir": str(options.dataset_dir), "cache_dir": str(options.cache_dir), **options_from(options.set)}
    trials = plan(study, study.arms, options.output_dir, common, options.seeds)
    trials = [trial if trial.done else with_base(trial, options.output_dir) for trial in trials]
    if options.minutes is None:
        trials = [with_steps(trial, options.steps) for trial in trials]
    else:
        path = options.output_dir / STEPS_NAME
        trials = [trial if trial.done else with_steps(trial, steps_within(options.minutes, trial, path))
                  for trial in trials]  # fmt: skip
    try:
        run_trials(trials, CONFIGS, options.jobs, options.output_dir / "runs.csv", trials)
        measured = {"validation": trials}
        if options.final is not None:
            measured[FINAL_FOLDER] = [measure_final(trial, options.final) for trial in trials]
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    for name, found in measured.items():
        rows = [one.row() | validation_loss(trial) for one, trial in zip(found, trials, strict=True)]
        write_rows(options.output_dir / f"{name}.csv", rows)
        print(f"\n{name} part\n\n{table(rows, REFERENCES)}")
    if not set(REFERENCES) <= set(study.arms):
        return 0
    verdicts = {arm: passes(rows, arm, REFERENCES) for arm in study.arms if arm not in REFERENCES}
    for name, verdict in verdicts.items():
        print(f"{name}: {'passes' if verdict else 'does NOT pass'}")
    firsts = [next(arm for arm in verdicts if arm.startswith(f"{base}, ")) for base in options.bases]
    return 0 if all(verdicts[arm] for arm in firsts) else 1


if __name__ == "__main__":
    sys.exit(main())
