"""Which of a run's adapters to release: the best by kernel distance among those whose samples are no copies."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anatodiff.engines.checkpoints import KEPT_FOLDER
from anatodiff.engines.evaluation import LISTING_NAME
from anatodiff.engines.finish import ADAPTER_NAME
from anatodiff.engines.handlers import LOG_NAME
from anatodiff.engines.protocol import METRICS_NAME, PRIVACY_NAME, run_workflow
from anatodiff.engines.sample_folder import SHEET_NAME
from anatodiff.files import replaced_when_whole, sha256_of

logger = logging.getLogger(__name__)

OPTIONS_NAME = "options.json"  # what an evaluation was made with
FINAL = "final"
Runner = Callable[[Path, str, dict[str, Any], Path], None]


@dataclass(frozen=True)
class Candidate:
    """An adapter that a run has kept, and where it is evaluated.

    Args:
        step: batches that it has seen; None where the run does not tell.
        adapter: its file.
        folder: of its samples and numbers.
    """

    step: int | None
    adapter: Path
    folder: Path

    @property
    def name(self) -> str:
        """What a table calls it."""
        return FINAL if self.step is None else str(self.step)


@dataclass(frozen=True)
class Judged:
    """What the evaluation of a candidate found.

    Args:
        step: batches that it has seen; None where the run does not tell.
        adapter: its file, relative to the run's folder.
        adapter_sha256: hash of the file.
        kid: kernel distance of its samples to the reference images.
        kid_stderr: its standard error.
        copies: share of the samples that are copies.
        copies_low: lower end of the 95 % interval.
        copies_high: upper end.
        membership_auc: what the network itself gives away.
        clean: whether planted copies were found and no more of the samples than chance would have.
        verdict: the same in words.
    """

    step: int | None
    adapter: str
    adapter_sha256: str
    kid: float
    kid_stderr: float
    copies: float
    copies_low: float
    copies_high: float
    membership_auc: float
    clean: bool
    verdict: str


@dataclass(frozen=True)
class Measuring:
    """How the candidates are sampled and evaluated.

    Args:
        configs: folder of inference.json and evaluate.json.
        inference: options of inference.json for all.
        evaluation: options of evaluate.json for all.
        run: runs a workflow, as `protocol.run_workflow`.
    """

    configs: Path
    inference: dict[str, Any]
    evaluation: dict[str, Any]
    run: Runner = field(default=run_workflow)


def candidates(run_dir: str | Path, output_dir: str | Path) -> list[Candidate]:
    """List the adapters that a run has kept, and its final one, which is listed once where it was kept, too.

    Args:
        run_dir: folder of a finished run.
        output_dir: where they are to be evaluated, each in a folder of its own.

    Returns:
        by step, the final one last.

    Raises:
        ValueError: the run is not finished.
    """
    run_dir, output_dir = Path(run_dir), Path(output_dir)
    final = run_dir / ADAPTER_NAME
    if not final.is_file():
        raise ValueError(f"{run_dir}: no {ADAPTER_NAME} in it; give run_dir the folder of a finished training")
    last = sha256_of(final)
    kept = [path for path in sorted((run_dir / KEPT_FOLDER).glob("step_*.safetensors")) if sha256_of(path) != last]
    steps = [int(path.stem.removeprefix("step_")) for path in kept]
    found = [Candidate(step, path, output_dir / path.stem) for step, path in sorted(zip(steps, kept, strict=True))]
    return [*found, Candidate(_last_step(run_dir), final, output_dir / FINAL)]


def _last_step(run_dir: Path) -> int | None:
    log = run_dir / LOG_NAME
    if not log.is_file():
        return None
    with open(log, newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    return steps[-1] if steps else None


def judge(candidate: Candidate, run_dir: str | Path, how: Measuring) -> Judged:
    """Sample and evaluate a candidate in processes of their own, unless that was done with the same options.

    Args:
        candidate: an adapter of the run.
        run_dir: the run's folder.
        how: options of both workflows.

    Returns:
        what was found.

    Raises:
        RuntimeError: one of both failed.
    """
    folder, digest = candidate.folder, sha256_of(candidate.adapter)
    samples = folder / "samples"
    wanted = {"adapter_sha256": digest, "inference": how.inference, "evaluation": how.evaluation}
    _forget_others(folder, json.dumps(wanted, indent=1, sort_keys=True))
    common = {"run_dir": str(folder), "adapter_path": str(candidate.adapter)}
    log = folder / "log.txt"
    if not (samples / SHEET_NAME).is_file():  # the last file that a sampling writes
        sampling = {**how.inference, **common, "dataset_dir": str(samples), "overwrite": True}
        how.run(how.configs / "inference.json", "run", sampling, log)
    if not (folder / METRICS_NAME).is_file() or not (folder / PRIVACY_NAME).is_file():
        listing = Path(run_dir) / LISTING_NAME
        if listing.is_file():
            shutil.copyfile(listing, folder / LISTING_NAME)
        how.run(how.configs / "evaluate.json", "run", {**how.evaluation, **common}, log)
    return _read(candidate, digest, Path(run_dir))


def _forget_others(folder: Path, wanted: str) -> None:
    """Remove samples and numbers of another adapter or other options, and note down whose come now."""
    options = folder / OPTIONS_NAME
    if options.is_file() and options.read_text() == wanted:
        return
    options.unlink(missing_ok=True)
    shutil.rmtree(folder / "samples", ignore_errors=True)
    for name in (METRICS_NAME, PRIVACY_NAME):
        (folder / name).unlink(missing_ok=True)
    with replaced_when_whole(options) as temporary:
        temporary.write_text(wanted)


def _read(candidate: Candidate, digest: str, run_dir: Path) -> Judged:
    metrics = json.loads((candidate.folder / METRICS_NAME).read_text())
    privacy = json.loads((candidate.folder / PRIVACY_NAME).read_text())
    copies = privacy["copies"]
    return Judged(
        candidate.step,
        candidate.adapter.relative_to(run_dir).as_posix(),
        digest,
        metrics["kid"]["value"],
        metrics["kid"]["stderr"],
        copies["value"],
        copies["low"],
        copies["high"],
        metrics["model_membership_auc"]["value"],
        privacy["clean"],
        privacy["verdict"],
    )


def best(judged: Sequence[Judged]) -> Judged | None:
    """Choose the lowest kernel distance among those without copies; of equal ones the earlier.

    Args:
        judged: in the order of the steps.

    Returns:
        the best; None where none is clean.
    """
    return min((one for one in judged if one.clean), key=lambda one: one.kid, default=None)


def table(judged: Sequence[Judged]) -> str:
    """Lay out what was found, one row for each candidate.

    Args:
        judged: in the order of the rows.

    Returns:
        a table in Markdown.
    """
    lines = ["| step | KID x 1000 | copies, % (95 % interval) | membership by the model, AUC | verdict |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for one in judged:
        kid = f"{1000 * one.kid:.1f} ± {1000 * one.kid_stderr:.1f}"
        share = f"{100 * one.copies:.1f} ({100 * one.copies_low:.1f} to {100 * one.copies_high:.1f})"
        step = FINAL if one.step is None else one.step
        lines.append(f"| {step} | {kid} | {share} | {one.membership_auc:.2f} | {one.verdict} |")
    return "\n".join(lines)


def write_choice(path: Path, judged: Sequence[Judged]) -> None:
    """Write what was found and chosen as JSON.

    Args:
        path: file to write.
        judged: in the order of the steps.
    """
    chosen = best(judged)
    record = {
        "chosen": None if chosen is None else asdict(chosen),
        "rule": "lowest kernel distance among those whose samples are no copies",
        "candidates": [asdict(one) for one in judged],
    }
    with replaced_when_whole(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1))
