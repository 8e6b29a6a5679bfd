"""What a request for samples may say, checked before anything is computed."""

from __future__ import annotations

import difflib
import math
import secrets
from dataclasses import dataclass
from typing import Any

from lib.errors import RequestError
from lib.options import runs_code

MAX_SAMPLES = 100  # the server answers nobody else meanwhile
MAX_STEPS = 1000
SEEDS = 2**31
NAMES = ("label", "seed", "samples", "guidance_scale", "sampling_steps")
# What MONAI Label and its viewers add to every request by themselves; nothing here depends on it.
ADDED = frozenset({
    "model", "image", "description", "session", "save_label", "label_tag", "device", "client_id", "result_extension",
    "result_dtype", "result_compress", "label_info",
})  # fmt: skip


@dataclass(frozen=True)
class SampleParameters:
    """One request.

    Args:
        label: class to draw.
        seed: with the class and the sample's number it fixes each image.
        samples: how many.
        guidance_scale: 1: none.
        sampling_steps: of the sampler.
    """

    label: str
    seed: int
    samples: int
    guidance_scale: float
    sampling_steps: int

    @classmethod
    def read(cls, request: dict[str, Any], classes: list[str], defaults: dict[str, Any]) -> SampleParameters:
        """Take the parameters out of a request; null is as if not given.

        Args:
            request: as MONAI Label hands it over.
            classes: names of the adapter's classes, at least one.
            defaults: `guidance_scale` and `sampling_steps` of the config.

        Returns:
            the parameters. Without a label it is the first class, without a seed any.

        Raises:
            RequestError: one is not known or out of its range.
        """
        for name in request:
            if name not in (*NAMES, *ADDED):
                near = difflib.get_close_matches(name, NAMES, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"the parameters are {', '.join(NAMES)}"
                raise RequestError(422, f"parameter {name!r} is not known; {hint}")
        given = {name: request[name] for name in NAMES if request.get(name) is not None}
        label = given.get("label", classes[0])
        if label not in classes:
            raise RequestError(422, f"label {label!r} is not known; the adapter's classes are {', '.join(classes)}")
        if runs_code(label):
            raise RequestError(
                422, f"label {label!r} begins with a sign that MONAI's configs evaluate; name it otherwise"
            )
        scale = given.get("guidance_scale", defaults["guidance_scale"])
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale < 0:
            raise RequestError(422, f"guidance_scale is {scale!r}; give a number of at least 0 (1: no guidance)")
        return cls(
            label=label,
            seed=_whole(given, "seed", secrets.randbelow(SEEDS), 0, SEEDS - 1),
            samples=_whole(given, "samples", 1, 1, MAX_SAMPLES),
            guidance_scale=float(scale),
            sampling_steps=_whole(given, "sampling_steps", defaults["sampling_steps"], 1, MAX_STEPS),
        )

    def options(self) -> dict[str, Any]:
        """Say it in the options of `inference.json`."""
        return {
            "only_classes": [self.label],
            "seed": self.seed,
            "samples_per_class": self.samples,
            "guidance_scale": self.guidance_scale,
            "sampling_steps": self.sampling_steps,
            "formats": ["dcm"],
        }


def _whole(given: dict[str, Any], name: str, default: int, lowest: int, highest: int) -> int:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise RequestError(422, f"{name} is {value!r}; give a whole number from {lowest} to {highest}")
    return value
