"""What bones of free form are made of, and the surfaces that cut them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .rays import Array

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Cone:
    """A rounded cone: a ball that moves along a line and changes its size.

    Args:
        start: (3,), mm.
        end: (3,), mm.
        radii: at the start and at the end, mm.
        ceiling: height above which it is cut off flat, mm.
        blend: mm over which it flows into the parts before it.
    """

    start: Point
    end: Point
    radii: tuple[float, float]
    ceiling: float = np.inf
    blend: float = 8.0

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance to the surface, negative inside.

        Args:
            x: any shape, mm.
            y: the same shape, mm.
            z: the same shape, mm.

        Returns:
            mm, in their shape.
        """
        way = np.subtract(self.end, self.start).astype(np.float32)
        dx, dy, dz = x - np.float32(self.start[0]), y - np.float32(self.start[1]), z - np.float32(self.start[2])
        share = (dx * way[0] + dy * way[1] + dz * way[2]) / np.float32(max(float(way @ way), 1e-6))
        share = np.clip(share, 0, 1)
        dx, dy, dz = dx - share * way[0], dy - share * way[1], dz - share * way[2]
        radius = np.float32(self.radii[0]) + share * np.float32(self.radii[1] - self.radii[0])
        found = np.sqrt(dx * dx + dy * dy + dz * dz) - radius
        return np.asarray(np.maximum(found, z - np.float32(self.ceiling)) if np.isfinite(self.ceiling) else found)

    def mirrored(self, side: int) -> Cone:
        """The same on the other side of the body.

        Args:
            side: 1 leaves it, -1 mirrors x.

        Returns:
            A cone.
        """
        (a, b, c), (d, e, f) = self.start, self.end
        return replace(self, start=(side * a, b, c), end=(side * d, e, f))


@dataclass(frozen=True)
class Cut:
    """A surface z = f(x, y) across a bone.

    Args:
        height: on the bone's axis, mm.
        axis: (2,), x and y of the axis there, mm.
        slope: (2,), rise along x and along y.
        pitch: rise over one turn around the axis, mm; makes a spiral.
        tent: fall per mm of distance from the axis.
        rough: amplitude of the unevenness, mm.
        phase: of the unevenness and of the spiral, radians.
    """

    height: float
    axis: tuple[float, float] = (0.0, 0.0)
    slope: tuple[float, float] = (0.0, 0.0)
    pitch: float = 0.0
    tent: float = 0.0
    rough: float = 0.0
    phase: float = 0.0

    def above(self, x: Array, y: Array, z: Array) -> Array:
        """Height of points above the surface.

        Args:
            x: any shape, mm.
            y: the same shape, mm.
            z: the same shape, mm.

        Returns:
            mm, negative below.
        """
        dx, dy = x - self.axis[0], y - self.axis[1]
        surface = self.height + self.slope[0] * dx + self.slope[1] * dy
        if self.tent:
            surface = surface - self.tent * np.hypot(dx, dy)
        if self.pitch or self.rough:
            angle = np.arctan2(dy, dx)
            turned = np.mod(angle + self.phase, 2 * np.pi) / (2 * np.pi)
            # The way back down is short and steep: that is the straight edge of a spiral fracture.
            surface = surface + self.pitch * (np.where(turned < 0.85, turned / 0.85, (1 - turned) / 0.15) - 0.5)
            uneven = np.sin(0.55 * dx + self.phase) + np.sin(0.8 * dy + 2 * self.phase) + np.sin(5 * angle + self.phase)
            surface = surface + self.rough * uneven
        return np.asarray(z - surface)
