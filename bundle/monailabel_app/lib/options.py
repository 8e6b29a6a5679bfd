"""Which options of `train.json` a request may set."""

from __future__ import annotations

import difflib
import json
from typing import Any

from anatodiff.engines.workflow import is_option, is_place, is_plain
from lib.errors import RequestError
from lib.settings import AppSettings

CONFIG = "train.json"
# Set by the app, or of no meaning where there are images.
NOT_GIVEN = ("bundle_root", "device", "phantom_images")
# What MONAI Label adds to every request by itself.
ADDED = frozenset({"model", "gpus", "local_rank"})


def training_options(settings: AppSettings) -> dict[str, Any]:
    """List the options that a request may set: those of the config that are no places on this machine.

    Args:
        settings: where the config is.

    Returns:
        option -> default. One that follows another ("@seed") is null.
    """
    config = json.loads(settings.config(CONFIG).read_text())
    found = {key: value for key, value in config.items() if is_option(key, value) and not is_place(key)}
    return {
        key: None if isinstance(value, str) and value.startswith("@") else value
        for key, value in found.items()
        if key not in NOT_GIVEN
    }


def read_options(request: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Take the options out of a request.

    Args:
        request: as MONAI Label hands it over.
        known: the options that may be set, with their defaults.

    Returns:
        those that are given.

    Raises:
        RequestError: one is not known, or its value is no plain one.
    """
    given = {name: value for name, value in request.items() if name not in ADDED}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(known)}"
            raise RequestError(422, f"option {name!r} is not known or cannot be set by a request; {hint}")
        if not is_plain(given[name]) or runs_code(given[name]):
            raise RequestError(
                422, f"option {name!r} cannot be {given[name]!r}; give a number, a text or a list of them"
            )
    return given


def runs_code(value: Any) -> bool:
    """Tell texts that MONAI's configs evaluate as Python or look up: nobody who can reach the server may send those."""
    if isinstance(value, list):
        return any(runs_code(part) for part in value)
    return isinstance(value, str) and value.startswith(("$", "@", "%"))
