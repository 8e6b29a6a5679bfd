"""What each workflow does first: refuse options that nothing reads, and make errors end in one line that helps."""

from __future__ import annotations

import difflib
import inspect
import itertools
import logging
import re
import sys
import traceback
import warnings
from types import TracebackType
from typing import Any

from monai.bundle import ConfigWorkflow
from tqdm import tqdm

logger = logging.getLogger(__name__)

# Read by MONAI's own tracking, see tracking.py; nobody's to set.
TRACKING_KEYS = {"is_not_rank0", "save_execute_config"}
# Top-level names that MONAI itself or its bundle specification reads.
MONAI_KEYS = {
    *("imports", "initialize", "run", "training", "finalize", "bundle_root", "_meta_", "device", "dataset_dir"),
    *TRACKING_KEYS,
    "elsewhere",
}
# Sections whose parts MONAI's tools look for by name, and those names.
MONAI_SECTIONS = {"train", "validate"}
MONAI_PARTS = {
    "dataset",
    "inferer",
    "handlers",
    "preprocessing",
    "postprocessing",
    "key_metric",
    "trainer",
    "evaluator",
}
# Read only by the defaults of other paths: giving those on the command line must not make it unknown.
PLACES = {"run_dir"}
# Options that are files or folders, beside those whose names end in _dir or _path.
PLACE_OPTIONS = {"bundle_root", "refuse_copies_of", "feature_network", "lpips_network", "lpips_weights", "tracking_uri"}
READERS_OF_PLACES = {"adapter_path", "generated_dir"}  # options whose defaults do
REFERENCE = re.compile(r"[@%]([A-Za-z_]\w*(?:(?:::|#)\w+)*)")


class OptionError(ValueError):
    """An option is not known or would do nothing; the message names it and the nearest known one."""


def start_workflow() -> None:
    """Check the running config and set up errors; the first entry of `initialize` in each config.

    Raises:
        OptionError: the config or the command line has a key that nothing refers to.
    """
    sys.excepthook = print_error
    check_command_line(sys.argv[1:])
    config = running_config()
    if config is not None:
        check_options(config)
    # MONAI's loader looks for every reader it knows; ours is the one in use.
    warnings.filterwarnings("ignore", message="NvImgCodec")


def check_command_line(arguments: list[str]) -> None:
    """Refuse options that MONAI would take for something else: it drops None, and `false` is a text, so true.

    Args:
        arguments: what follows the program's name.

    Raises:
        OptionError: names the option and how to give it.
    """
    for name, value in itertools.pairwise([part for argument in arguments for part in argument.split("=", 1)] + [""]):
        if name.startswith("--") and value in ("None", "null"):
            raise OptionError(f"option {name.removeprefix('--')!r} cannot be given as {value}; write {name} '$None'")
        if name.startswith("--") and value in ("true", "false"):
            raise OptionError(f"option {name.removeprefix('--')!r} cannot be given as {value}; write {value.title()}")


def running_config() -> dict[str, Any] | None:
    """Find the config that is being run, command line included.

    Returns:
        the raw config, or None where no config workflow is running.
    """
    workflow = _running_workflow()
    return None if workflow is None else workflow.parser.get()


def running_options() -> dict[str, Any] | None:
    """Find the options of the config that is being run, as they were read, without those that say where things are.

    Returns:
        option -> plain value; None where no config workflow is running.
    """
    workflow = _running_workflow()
    if workflow is None:
        return None
    options = {}
    for key, value in workflow.parser.get().items():
        if key in MONAI_KEYS | MONAI_SECTIONS | {"handlers"} or isinstance(value, dict) or is_place(key):
            continue
        found = workflow.parser.get_parsed_content(key)
        if is_plain(found):  # what is not is a component
            options[key] = found
    return options


def is_place(key: str) -> bool:
    """Tell the options that say where files are, whose names are nobody else's business."""
    return key in PLACE_OPTIONS or key.endswith(("_dir", "_path"))


def is_plain(value: Any) -> bool:
    """Tell values that JSON has from components."""
    if isinstance(value, list):
        return all(is_plain(part) for part in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _running_workflow() -> ConfigWorkflow | None:
    # MONAI hands a component its own arguments only, so the workflow is looked up among the callers.
    frame = inspect.currentframe()
    while frame is not None:
        workflow = frame.f_locals.get("self")
        if isinstance(workflow, ConfigWorkflow):
            return workflow
        frame = frame.f_back
    return None


def check_options(config: dict[str, Any]) -> None:
    """Refuse top-level keys that nothing refers to: misspelt options and dead ones.

    Args:
        config: raw config.

    Raises:
        OptionError: names the first such key.
    """
    read = MONAI_KEYS | MONAI_SECTIONS | (PLACES if READERS_OF_PLACES & config.keys() else set())
    waiting = [key for key in config if key in read and key != "_meta_"]
    reached, parts = set(waiting), {f"{section}::{part}" for section in MONAI_SECTIONS for part in MONAI_PARTS}
    while waiting:
        for name in referred(config[waiting.pop()]):
            parts.add("::".join(name.split("::")[:2]))
            name = name.split("::")[0]
            if name in config and name not in reached:
                reached.add(name)
                waiting.append(name)
    unread = [key for key in config if key not in reached | read]
    _check_elsewhere([key for key in unread if key in config.get("elsewhere", ())])
    unread = [key for key in unread if key not in config.get("elsewhere", ())]
    for section in MONAI_SECTIONS & config.keys():
        unread += [f"{section}::{part}" for part in config[section] if f"{section}::{part}" not in parts]
    if unread:
        known = sorted(key for key in reached if is_option(key, config[key]))
        near = difflib.get_close_matches(unread[0], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(known)}"
        raise OptionError(f"option {unread[0]!r} is not known, nothing reads it; {hint}")


def _check_elsewhere(keys: list[str]) -> None:
    """Refuse what an overlay's `elsewhere` excuses, options of other workflows, where the user gives it himself."""
    given = {argument.removeprefix("--").split("=")[0] for argument in sys.argv[1:] if argument.startswith("--")}
    for key in keys:
        if key in given:
            raise OptionError(f"option {key!r} is not read by this workflow with this overlay; leave it out")


def is_option(key: str, value: Any) -> bool:
    """Tell the options of a config from its components.

    Args:
        key: top-level key.
        value: its raw value.

    Returns:
        whether a user is meant to set it.
    """
    if (
        key
        in {"run", "training", "initialize", "imports", "finalize", "handlers", "elsewhere"}
        | MONAI_SECTIONS
        | TRACKING_KEYS
    ):
        return False
    is_reference = isinstance(value, str) and value.startswith("$") and not key.endswith(("_dir", "_path"))
    return not isinstance(value, dict) and not is_reference


def referred(value: Any) -> set[str]:
    """Collect the ids that a config value refers to with @ or %, such as "train::dataset".

    Args:
        value: any part of a raw config.

    Returns:
        ids, with "::" between their parts.
    """
    if isinstance(value, dict):
        return set().union(*(referred(part) for part in value.values()))
    if isinstance(value, list):
        return set().union(*(referred(part) for part in value))
    if not isinstance(value, str) or value[:1] not in ("@", "%", "$"):
        return set()
    return {name.replace("#", "::") for name in REFERENCE.findall(value)}


def print_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught error so that the last line is the cause, not MONAI's wrapping of it.

    Args:
        kind: class of the error.
        error: the error.
        trace: its traceback.
    """
    for bar in list(getattr(tqdm, "_instances", [])):
        bar.close()  # an open progress bar would print its end after the error
    traceback.print_exception(kind, error, trace)
    cause = cause_of(error)
    if cause is not error:
        text = " ".join(str(cause).split())
        print(f"{type(cause).__name__}: {text}", file=sys.stderr)


def cause_of(error: BaseException) -> BaseException:
    """Find the error that MONAI has wrapped: it raises plain RuntimeErrors around whatever a component raises.

    Args:
        error: the error as caught.

    Returns:
        the first error below it that is no wrapping.
    """
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    return error
