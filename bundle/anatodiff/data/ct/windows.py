"""Windows in Hounsfield units: between HU and the gray levels that a person or a network sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HUWindow:
    """A range of Hounsfield units that is shown from black to white.

    Args:
        low: HU that is black.
        high: HU that is white, above `low`.

    Raises:
        ValueError: the two do not make a range.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"window {self.low:g}..{self.high:g} HU: give two finite numbers, the lower one first")

    @classmethod
    def of(cls, name: str) -> HUWindow:
        """Take a window by its name.

        Args:
            name: one of HU_WINDOWS.

        Returns:
            The window.

        Raises:
            ValueError: the name is not known.
        """
        if name not in HU_WINDOWS:
            raise ValueError(f"window {name!r} is unknown: choose one of {', '.join(HU_WINDOWS)}, or give low and high")
        return HU_WINDOWS[name]

    @classmethod
    def centred(cls, centre: float, width: float) -> HUWindow:
        """Build a window from its centre and width, as radiologists name it.

        Args:
            centre: HU.
            width: HU, above 0.

        Returns:
            The window from centre - width / 2 to centre + width / 2.
        """
        return cls(centre - width / 2, centre + width / 2)

    def to_unit(self, hu: np.ndarray) -> np.ndarray:
        """Bring HU to gray levels; what lies outside the window is black or white.

        Args:
            hu: any shape.

        Returns:
            float32 in [0, 1], the shape of `hu`.
        """
        scaled = (np.asarray(hu, np.float32) - np.float32(self.low)) / np.float32(self.high - self.low)
        return np.clip(scaled, 0.0, 1.0)

    def to_hu(self, unit: np.ndarray) -> np.ndarray:
        """Bring gray levels back to HU; what a window has cut off does not come back.

        Args:
            unit: in [0, 1], any shape.

        Returns:
            float32 HU, the shape of `unit`.
        """
        return np.asarray(unit, np.float32) * np.float32(self.high - self.low) + np.float32(self.low)


# Centre and width as usual in textbooks of CT (Hofer, "CT Teaching Manual"; radiopaedia.org, "Windowing (CT)"):
# abdomen 40/400 (also NA-Diff's own), liver 60/160, mediastinum 50/350, lung -600/1500, bone 400/1800.
HU_WINDOWS = {
    "abdomen": HUWindow(-160.0, 240.0),
    "liver": HUWindow(-20.0, 140.0),
    "mediastinum": HUWindow(-125.0, 225.0),
    "lung": HUWindow(-1350.0, 150.0),
    "bone": HUWindow(-500.0, 1300.0),
}
