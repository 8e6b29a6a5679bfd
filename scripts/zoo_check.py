"""Do what the MONAI model zoo does to a bundle before it takes it, by MONAI's own functions, without a network.

    python scripts/zoo_check.py                        # a bundle made of the shipped base and a fresh adapter
    python scripts/zoo_check.py published/anatodiff    # one that scripts/publish_bundle.py has made
    python scripts/zoo_check.py --zoo ../model-zoo     # and the zoo's own programs on it, from a copy of the zoo

The schema of the metadata comes from --schema, or from the folder that ANATODIFF_SHARED names, or from the network. The
exit code is 1 where a check fails; what could not be checked is named with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# The bundle specification's, and those that the zoo prefers.
NECESSARY = ("LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md")
NETWORK = "network_def"
MOST_BYTES = 25_000_000  # of a file in the zoo's repository; a larger one is only linked to
LARGE_FILES = ("large_files.yml", "large_files.yaml", "large_files.json")
# config -> type of its workflow; None has no network to train or to infer with. The others are overlays.
WORKFLOWS = {
    "train": "train",
    "pretrain": "train",
    "train_autoencoder": "train",
    "inference": "infer",
    "evaluate": None,
    "prepare": None,
}
# What building a workflow takes its time with, and its properties do not depend on.
FEW = {"phantom_images": 24, "n_prototypes": 4, "topology_weight": 0.0}
ZOO_SECONDS = 600
# What the zoo's programs must have said, by the mode that they run in.
ZOO_SAYS = {
    "min": ("directory is verified", "version and changelog are verified", "metadata format is verified"),
    "full": (
        "properties are verified",
        "data shape is verified",
        "export weights into TorchScript module successfully",
    ),
}
# Runs a program of the zoo with the schema from a file: its own code would download it.
ZOO_RUNNER = """
import runpy, shutil, sys
import monai.apps.utils, monai.bundle.scripts
schema, program, *arguments = sys.argv[1:]
def local(url, filepath="", **others):
    if not url.endswith(".json"):
        raise OSError(f"{url}: is not downloaded here")
    shutil.copyfile(schema, filepath)
monai.apps.utils.download_url = monai.bundle.scripts.download_url = local
sys.path.insert(0, "ci")
sys.argv = [program, *arguments]
runpy.run_path(program, run_name="__main__")
"""


class Skipped(Exception):
    """A check could not be done; the message says why."""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        check: what was looked at.
        result: "passed", "failed: ..." or "skipped: ...".
        seconds: that it took.
    """

    check: str
    result: str
    seconds: float


@dataclass(frozen=True)
class Bundle:
    """A bundle to be checked.

    Args:
        folder: its root.
        schema: file with the schema of its metadata, None where there is none.
        scratch: folder for what the checks write.
    """

    folder: Path
    schema: Path | None
    scratch: Path

    @property
    def metadata(self) -> dict[str, Any]:
        """What it says of itself."""
        return json.loads((self.folder / "configs" / "metadata.json").read_text())

    @property
    def places(self) -> dict[str, str]:
        """Arguments that all of MONAI's functions take."""
        configs = self.folder / "configs"
        return {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}


def check_directory(bundle: Bundle) -> None:
    """All files are there that the bundle specification and the zoo ask for."""
    missing = [name for name in NECESSARY if not (bundle.folder / name).is_file()]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")


def check_sizes(bundle: Bundle) -> None:
    """The zoo's repository takes no large file: those are to be linked to."""
    linked = "".join((bundle.folder / name).read_text() for name in LARGE_FILES if (bundle.folder / name).is_file())
    files = [path for path in bundle.folder.rglob("*") if path.is_file() and path.stat().st_size > MOST_BYTES]
    names = [str(path.relative_to(bundle.folder)) for path in files]
    over = [name for name in names if name not in linked]
    if over:
        raise ValueError(f"{', '.join(over)} over {MOST_BYTES / 1e6:.0f} MB: give a link to each in {LARGE_FILES[0]}")


def check_version(bundle: Bundle) -> None:
    """The changelog knows the version."""
    metadata = bundle.metadata
    if metadata["version"] not in metadata["changelog"]:
        raise ValueError(f"version {metadata['version']} is not in the changelog of configs/metadata.json")


def check_schema(bundle: Bundle) -> None:
    """The metadata are as the schema that they name wants them."""
    from monai.bundle import verify_metadata

    if "schema" not in bundle.metadata:
        raise ValueError("configs/metadata.json has no schema")
    target = bundle.scratch / "schema.json"  # where a file is there already nothing is downloaded
    if bundle.schema is not None:
        shutil.copyfile(bundle.schema, target)
    try:
        verify_metadata(meta_file=bundle.places["meta_file"], filepath=str(target))
    except OSError as error:
        raise Skipped(f"no schema: give --schema FILE ({' '.join(str(error).split())})") from error


def check_weights(bundle: Bundle) -> None:
    """Without pickled code, and all that the network has."""
    import torch
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(bundle.places["config_file"])
    parser["bundle_root"] = str(bundle.folder)
    state = torch.load(bundle.folder / "models" / "model.pt", map_location="cpu", weights_only=True)
    parser.get_parsed_content(NETWORK).load_state_dict(state)


def check_shapes(bundle: Bundle) -> None:
    """The network takes and gives what the metadata say."""
    from monai.bundle import verify_net_in_out

    verify_net_in_out(net_id=NETWORK, device="cpu", bundle_root=str(bundle.folder), **bundle.places)


def check_torchscript(bundle: Bundle) -> None:
    """The network can be exported, with its weights."""
    import torch
    from monai.bundle import ckpt_export

    script, model = bundle.scratch / "model.ts", bundle.folder / "models" / "model.pt"
    ckpt_export(
        net_id=NETWORK, filepath=str(script), ckpt_file=str(model), bundle_root=str(bundle.folder), **bundle.places
    )
    torch.jit.load(str(script))


def check_properties(bundle: Bundle, name: str) -> None:
    """All that MONAI's apps look for by name is there and can be built, on a few phantoms where there are data."""
    from monai.bundle import ConfigWorkflow

    path, output = bundle.folder / "configs" / f"{name}.json", str(bundle.scratch / name)
    # Where inference writes is called as the zoo calls where data are.
    places = {
        "cache_dir": str(bundle.scratch / "cache"),
        "dataset_dir" if name == "inference" else "output_dir": output,
    }
    known = json.loads(path.read_text())
    options = {key: value for key, value in {**FEW, **places}.items() if key in known}
    workflow = ConfigWorkflow(
        str(path), bundle.places["meta_file"], workflow_type=WORKFLOWS[name], bundle_root=str(bundle.folder), **options
    )
    try:
        workflow.initialize()
        missing = workflow.check_properties()
    finally:
        workflow.finalize()
    if missing:
        raise ValueError(f"missing or under another name: {', '.join(missing)}")


def check_zoo(bundle: Bundle, zoo: Path | None) -> None:
    """The zoo's own programs on a copy of the bundle, in a copy of the zoo."""
    if zoo is None:
        raise Skipped("no copy of github.com/Project-MONAI/model-zoo; give --zoo DIR or ANATODIFF_ZOO")
    if bundle.schema is None:
        raise Skipped("no schema: give --schema FILE")
    work = bundle.scratch / "zoo"
    shutil.copytree(zoo / "ci", work / "ci")
    (work / "models").mkdir()
    shutil.copyfile(zoo / "models" / "model_info.json", work / "models" / "model_info.json")
    shutil.copytree(bundle.folder, bundle.scratch / "copy")
    (work / "models" / "anatodiff").symlink_to(bundle.scratch / "copy")
    run_zoo(bundle, work, "ci/prepare_schema.py", "--l", "anatodiff")
    for mode, sentences in ZOO_SAYS.items():
        said = run_zoo(bundle, work, "ci/verify_bundle.py", "--b", "anatodiff", "--mode", mode)
        silent = [sentence for sentence in sentences if sentence not in said]
        if silent:
            raise ValueError(f"mode {mode}: the zoo did not say {silent}")


def run_zoo(bundle: Bundle, work: Path, *words: str) -> str:
    """Run a program of the zoo; returns what it printed."""
    command = [sys.executable, "-c", ZOO_RUNNER, str(bundle.schema), *words]
    environment = {**os.environ, "PYTHONPATH": str(work / "models" / "anatodiff")}
    done = subprocess.run(
        command, cwd=work, env=environment, capture_output=True, text=True, timeout=ZOO_SECONDS, check=False
    )
    lines = [line for line in done.stdout.splitlines() if "verif" in line or "success" in line or "prepared" in line]
    print("\n".join([f"$ {' '.join(words)}", *(f"  {line}" for line in lines)]))
    if done.returncode:
        last = (done.stderr.strip() or "no error text").splitlines()[-1]
        raise ValueError(f"{' '.join(words)} ended with {done.returncode}: {last}")
    return done.stdout


def checks(bundle: Bundle, zoo: Path | None) -> dict[str, Callable[[], None]]:
    """Name all checks, in order."""
    named: dict[str, Callable[[], None]] = {
        "directory": lambda: check_directory(bundle),
        f"files up to {MOST_BYTES / 1e6:.0f} MB": lambda: check_sizes(bundle),
        "version and changelog": lambda: check_version(bundle),
        "metadata schema": lambda: check_schema(bundle),
        "model.pt: weights only, fits": lambda: check_weights(bundle),
        "network in and out": lambda: check_shapes(bundle),
        "TorchScript": lambda: check_torchscript(bundle),
    }
    for name in WORKFLOWS:
        named[f"properties: {name}"] = lambda name=name: check_properties(bundle, name)  # type: ignore[misc]
    named["the zoo's verify_bundle.py"] = lambda: check_zoo(bundle, zoo)
    return named


def run_check(name: str, check: Callable[[], None]) -> Row:
    """Do one check; an error is its result, in one line."""
    start = time.monotonic()
    try:
        check()
        result = "passed"
    except Skipped as reason:
        result = f"skipped: {reason}"
    except Exception as error:
        while type(error) is RuntimeError and isinstance(error.__cause__, Exception):
            error = error.__cause__  # MONAI wraps what a component raises
        result = f"failed: {type(error).__name__}: {' '.join(str(error).split())}"
    return Row(name, result, time.monotonic() - start)


def check_bundle(folder: Path, schema: Path | None = None, zoo: Path | None = None) -> list[Row]:
    """Check a bundle.

    Args:
        folder: its root.
        schema: file with the schema of its metadata; None downloads it.
        zoo: a copy of the model zoo; None leaves its own programs out.

    Returns:
        a row for each check.
    """
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Bundle(folder.resolve(), schema, Path(scratch))
        return [run_check(name, check) for name, check in checks(bundle, zoo).items()]


def find_schema(folder: Path) -> Path | None:
    """Look for the schema that the metadata names where shared data lies; None is nowhere."""
    try:
        name = Path(json.loads((folder / "configs" / "metadata.json").read_text())["schema"]).name
    except (OSError, ValueError, KeyError):
        return None  # the checks of the directory and of the metadata say so
    path = Path(os.environ.get("ANATODIFF_SHARED", ROOT.parent / "shared"), "data", "schema", name)
    return path if path.is_file() else None


def fresh_bundle(folder: Path) -> None:
    """Publish the shipped base with an adapter that has learned nothing yet."""
    import torch

    from anatodiff.networks import FineTuning, build_anatodiff, load_base, save_adapter, trained_names
    from publish_bundle import publish

    base = load_base()
    side = base.network.input_size
    prototypes = torch.zeros(25, base.network.in_channels, side, side)
    network = build_anatodiff(base, 1, prototypes)
    facts = {"classes": ["image"], "data_licence": "none: nothing was learned", "base_licence": base.licence}
    path = folder.with_suffix(".safetensors")
    save_adapter(path, network, trained_names(network), base, FineTuning(), facts)
    publish(path, folder)


def main(arguments: list[str] | None = None) -> int:
    """Check the bundle that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="a published bundle; without one a fresh one is made")
    parser.add_argument("--schema", type=Path, help="file with the schema that the metadata names")
    parser.add_argument(
        "--zoo", type=Path, default=os.environ.get("ANATODIFF_ZOO") or None, help="a copy of the model zoo"
    )
    options = parser.parse_args(arguments)
    if options.folder is None:
        with tempfile.TemporaryDirectory() as made:
            fresh_bundle(Path(made, "anatodiff"))
            given = [] if options.schema is None else ["--schema", str(options.schema)]
            given += [] if options.zoo is None else ["--zoo", str(options.zoo)]
            # A process of its own: here the checkout's package is imported already.
            command = [sys.executable, str(Path(__file__).resolve()), str(Path(made, "anatodiff")), *given]
            return subprocess.run(command, check=False).returncode
    sys.path.insert(0, str(options.folder.resolve()))  # its own package, as the zoo does it
    rows = check_bundle(options.folder, options.schema or find_schema(options.folder), options.zoo)
    width = max(len(row.check) for row in rows)
    for row in rows:
        print(f"{row.check:<{width}}  {row.seconds:6.1f} s  {row.result}")
    failed = sum(row.result.startswith("failed") for row in rows)
    print(f"{failed} of {len(rows)} checks failed" if failed else "nothing failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
