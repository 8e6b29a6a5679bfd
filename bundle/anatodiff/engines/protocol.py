"""Studies: the same training with one thing changed, repeated with other splits and seeds, each run measured."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anatodiff.engines.sample_folder import SHEET_NAME
from anatodiff.files import replaced_when_whole

logger = logging.getLogger(__name__)

METRICS_NAME = "metrics.json"  # what an evaluation leaves
PRIVACY_NAME = "privacy.json"
SECONDS_NAME = "seconds.json"
EVALUATED = (
    "dataset_dir", "labels_path", "cache_dir", "image_size", "test_fraction", "max_images", "max_train_images",
    "allow_burned_in",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Arms to be laid side by side.

    Args:
        title: what it shows.
        reference: arm that the others are compared with, seed by seed.
        arms: in the order of the rows, the reference among them.
    """

    title: str
    reference: str
    arms: list[str]


@dataclass(frozen=True)
class Protocol:
    """A study: arms, seeds and what all runs have in common.

    Args:
        seeds: of the repetitions; each is a split by patient, too.
        training: options of train.json for all runs.
        evaluation: options of evaluate.json for all runs.
        arms: by name, the options of train.json that are its own. `seed_offset` is none of these: it is added to the
            seed of all but the split, for the same training with other chances.
        tables: by name.
    """

    seeds: list[int]
    training: dict[str, Any]
    evaluation: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    tables: dict[str, Table] = field(default_factory=dict)


def read_protocol(path: str | Path) -> Protocol:
    """Read a study from JSON.

    Args:
        path: file as `configs/protocol.json`.

    Returns:
        the study.

    Raises:
        ValueError: a key is missing or unknown, or a table names an arm that there is not.
    """
    try:
        content = json.loads(Path(path).read_text())
        tables = {name: Table(**table) for name, table in content.pop("tables", {}).items()}
        protocol = Protocol(**content, tables=tables)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a protocol ({error}); compare it with configs/protocol.json") from error
    for name, table in tables.items():
        strange = [arm for arm in [table.reference, *table.arms] if arm not in protocol.arms]
        if strange or table.reference not in table.arms:
            raise ValueError(f"{path}: table {name} names {strange or table.reference}; add it to arms or its arms")
    return protocol


@dataclass(frozen=True)
class Trial:
    """One arm with one seed.

    Args:
        arm: its name.
        seed: of the split, and with the arm's offset of everything else.
        training: options of train.json.
        evaluation: options of evaluate.json.
        folder: where the run goes.
    """

    arm: str
    seed: int
    training: dict[str, Any]
    evaluation: dict[str, Any]
    folder: Path

    @property
    def done(self) -> bool:
        """Whether its numbers are there."""
        return (self.folder / METRICS_NAME).is_file()

    def row(self) -> dict[str, Any]:
        """Return its numbers by name: each measure, and what real images have (`_real`)."""
        measures = json.loads((self.folder / METRICS_NAME).read_text())
        privacy = json.loads((self.folder / PRIVACY_NAME).read_text())
        seconds = self.folder / SECONDS_NAME
        row: dict[str, Any] = {"arm": self.arm, "seed": self.seed}
        row |= {name: measure["value"] for name, measure in measures.items()}
        row |= {f"{name}_real": m["real"] for name, m in measures.items() if m["real"] is not None}
        row |= {"copies_clean": privacy["clean"]}
        return row | (json.loads(seconds.read_text()) if seconds.is_file() else {})


def plan(
    protocol: Protocol,
    arms: Iterable[str],
    output_dir: str | Path,
    common: dict[str, Any],
    seeds: list[int] | None = None,
) -> list[Trial]:
    """List the runs of some arms, all arms of a seed before those of the next: an interrupted study is paired.

    Args:
        protocol: the study.
        arms: names of the arms.
        output_dir: folder of the study.
        common: further options of train.json for all runs, which win.
        seeds: instead of the protocol's.

    Returns:
        the runs.
    """
    trials = []
    for seed in protocol.seeds if seeds is None else seeds:
        for arm in dict.fromkeys(arms):
            folder = Path(output_dir) / arm / f"seed{seed}"
            own = dict(protocol.arms[arm])
            chances = seed + own.pop("seed_offset", 0)
            training = {**protocol.training, **own, **common, "seed": chances, "split_seed": seed}
            training |= {"output_dir": str(folder), "measured": []}
            evaluation = {key: training[key] for key in EVALUATED if key in training}
            evaluation |= {**protocol.evaluation, "run_dir": str(folder), "seed": seed}
            trials.append(Trial(arm, seed, training, evaluation, folder))
    return trials


def options_from(parts: Iterable[str]) -> dict[str, Any]:
    """Read options as they are typed.

    Args:
        parts: OPTION=VALUE each; a value that is no JSON is text.

    Returns:
        values by option.
    """
    found: dict[str, Any] = {}
    for part in parts:
        name, _, text = part.partition("=")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def run_workflow(config: Path, run_id: str, options: dict[str, Any], log: Path, threads: int | None = None) -> None:
    """Run a workflow of the bundle as a user would, in a process of its own.

    Args:
        config: file of the workflow.
        run_id: what to run of it.
        options: instead of the file's.
        log: file to which what it prints is added.
        threads: that it may use; None leaves it to torch.

    Raises:
        RuntimeError: it failed; the message ends with its last line.
    """
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(config)]
    for name, value in options.items():
        # MONAI reads Python's literals, and drops None.
        command += [f"--{name}", "$None" if value is None else str(value)]
    environment = dict(os.environ) | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
    if code:
        lines = log.read_text().strip().splitlines()
        raise RuntimeError(f"{config.name} failed, see {log}: {lines[-1] if lines else 'it printed nothing'}")


def run_trial(trial: Trial, configs: Path, threads: int | None = None) -> None:
    """Train and measure one run, unless its numbers are there; an interrupted training goes on.

    Args:
        trial: the run.
        configs: folder of train.json and evaluate.json.
        threads: that it may use; None leaves it to torch.

    Raises:
        RuntimeError: one of both failed.
    """
    if trial.done:
        return
    log, started = trial.folder / "log.txt", time.monotonic()
    if not (trial.folder / "samples" / SHEET_NAME).is_file():  # the last thing that a training writes then
        run_workflow(configs / "train.json", "training", trial.training, log, threads)
    trained = time.monotonic()
    run_workflow(configs / "evaluate.json", "run", trial.evaluation, log, threads)
    seconds = {"training_seconds": round(trained - started), "evaluation_seconds": round(time.monotonic() - trained)}
    (trial.folder / SECONDS_NAME).write_text(json.dumps(seconds))
    logger.info("%s, seed %d: %s", trial.arm, trial.seed, seconds)


def run_trials(trials: list[Trial], configs: Path, jobs: int, results: Path, study: list[Trial]) -> None:
    """Run all, several at a time, and write the table of those that are done after each.

    Args:
        trials: the runs.
        configs: folder of train.json and evaluate.json.
        jobs: runs at a time, which share the cores.
        results: CSV file, one row for each run of the study that is done.
        study: all runs of the study, also those of earlier commands.

    Raises:
        RuntimeError: one of them failed; the others have been run.
    """
    threads = None if jobs == 1 else max(1, (os.cpu_count() or 1) // jobs)

    def one(trial: Trial) -> str:
        try:
            run_trial(trial, configs, threads)
        except RuntimeError as error:
            return str(error)
        write_rows(results, [other.row() for other in study if other.done])
        return ""

    with ThreadPoolExecutor(jobs) as pool:
        failures = [message for message in pool.map(one, trials) if message]
    if failures:
        raise RuntimeError(f"{len(failures)} of {len(trials)} runs failed; the first: {failures[0]}")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a table as CSV; a row may lack what others have.

    Args:
        path: file to write.
        rows: values by column.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replaced_when_whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
