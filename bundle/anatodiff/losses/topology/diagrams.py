"""Persistence diagrams of images as compiled code: a bucket sort and a union-find.

Compiled functions call none of another file, because numba's cache on disk would not see it change.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy.ndimage import label

BUCKETS = 1 << 16  # of the sort: so many that few values of an image share one
DIGIT_BITS = 8  # of a bucket's number, sorted by in two rounds
MAX_SHIFTS = 16  # of a value, on average, before the sort gives up its buckets
FRAME = 0  # the time at which what lies around the image enters, where it does
AROUND = ((-1, 0), (0, 1), (1, 0), (0, -1), (-1, 1), (1, 1), (1, -1), (-1, -1))  # neighbours; by a side are the first 4

compiled = njit(nogil=True, cache=True, boundscheck=False)


def _neighbours_to_ask(corners: bool) -> np.ndarray:
    """List for each set of neighbours that have entered one of each component that they form among themselves.

    Args:
        corners: whether pixels that share only a corner are connected.

    Returns:
        (256, 5) how many to ask, and which.
    """
    table = np.zeros((256, 5), np.int32)
    for entered in range(256):
        square = np.zeros((3, 3), int)
        for k, (row, column) in enumerate(AROUND):
            square[1 + row, 1 + column] = entered >> k & 1
        components, _ = label(square, np.ones((3, 3)) if corners else None)
        first: dict[int, int] = {}
        for k, (row, column) in enumerate(AROUND if corners else AROUND[:4]):
            if entered >> k & 1:
                first.setdefault(components[1 + row, 1 + column], k)
        table[entered, : 1 + len(first)] = [len(first), *first.values()]
    return table


ASK_8, ASK_4 = _neighbours_to_ask(corners=True), _neighbours_to_ask(corners=False)


@compiled
def argsort(values: np.ndarray, order: np.ndarray) -> None:
    """Sort values (n,) float64, finite, into order (n,) int32, equal ones by index.

    A radix sort by evenly spaced buckets leaves little to the insertion sort that ends it; where values are so
    uneven that it would leave much, a merge sort does it all.
    """
    n, low, high = len(values), values.min(), values.max()
    scale = (BUCKETS - 1) / (high - low) if high > low else 0.0
    digits = 1 << DIGIT_BITS
    buckets, spare = np.empty(n, np.uint16), np.empty(n, np.int32)
    small, large = np.zeros(digits, np.int32), np.zeros(digits, np.int32)
    if not (high - low < np.inf and scale < np.inf):
        order[:] = np.argsort(values, kind="mergesort")
        return
    for i in range(n):
        bucket = np.int32((values[i] - low) * scale)
        buckets[i] = bucket
        small[bucket & digits - 1] += 1
        large[bucket >> DIGIT_BITS] += 1
    below_small, below_large = 0, 0
    for digit in range(digits):
        small[digit], below_small = below_small, below_small + small[digit]
        large[digit], below_large = below_large, below_large + large[digit]
    for i in range(n):
        digit = buckets[i] & digits - 1
        spare[small[digit]] = i
        small[digit] += 1
    for k in range(n):
        i = spare[k]
        digit = buckets[i] >> DIGIT_BITS
        order[large[digit]] = i
        large[digit] += 1
    shifts = 0
    for end in range(1, n):
        index, place = order[end], end
        while place > 0 and values[order[place - 1]] > values[index]:
            order[place] = order[place - 1]
            place -= 1
        order[place] = index
        shifts += end - place
        if shifts > MAX_SHIFTS * n:
            order[:] = np.argsort(values, kind="mergesort")
            return


@compiled
def merge(
    sequence: np.ndarray,
    time: np.ndarray,
    entered: np.ndarray,
    ask: np.ndarray,
    steps: np.ndarray,
    parent: np.ndarray,
    ends: np.ndarray,
) -> int:
    """Let pixels enter one after the other and note which components end; the elder of two lives on (eq. 16).

    Args:
        sequence: (n + 1,) int32 pixel of the padded image that enters at each time from 1 on.
        time: (padded pixels,) int32 when each enters.
        entered: (padded pixels,) uint8, which of its neighbours are there when a pixel enters, one bit each.
        ask: (256, 5) for each such set, how many neighbours to ask for their components, and which.
        steps: (8,) int32 from a padded pixel to its neighbours.
        parent: (n + 1,) int32, scratch.
        ends: (n, 2) int32, the result: times at which a component began and ended.

    Returns:
        how many components end; one that ends as it begins is none.
    """
    found = 0
    parent[FRAME] = FRAME
    for now in range(1, len(sequence)):
        pixel = sequence[now]
        those = ask[entered[pixel]]
        if those[0] == 0:
            parent[now] = now
            continue
        root = parent[time[pixel + steps[those[1]]]]
        if those[0] > 1:
            while parent[root] != root:
                parent[root] = parent[parent[root]]
                root = parent[root]
        for k in range(2, 1 + those[0]):
            other = time[pixel + steps[those[k]]]
            while parent[other] != other:
                parent[other] = parent[parent[other]]
                other = parent[other]
            if other != root:
                ends[found, 0], ends[found, 1] = max(root, other), now
                parent[max(root, other)] = min(root, other)
                root = min(root, other)
                found += 1
        parent[now] = root
    return found


@compiled
def diagrams(image: np.ndarray, pixels: np.ndarray, counts: np.ndarray, extremes: np.ndarray) -> None:
    """Find both persistence diagrams of the sublevel sets of one image (eq. 15-17), each point as two pixels.

    Args:
        image: (H, W) float64, finite.
        pixels: (2, room, 2) int32, becomes the pixels of birth and death in H0 (8-connected, dark first), and in H1,
            whose bright islands are 4-connected, enter bright first and end in each other or in the frame.
        counts: (2,) int32, becomes the numbers of points; those of no persistence are left out.
        extremes: (2,) int32, becomes the first and the last pixel to enter.
    """
    height, width = image.shape
    n, padded, flat = height * width, width + 2, image.ravel()
    order, sequence, parent = np.empty(n, np.int32), np.empty(n + 1, np.int32), np.empty(n + 1, np.int32)
    time, entered = np.full((height + 2) * padded, n + 1, np.int32), np.zeros((height + 2) * padded, np.uint8)
    steps, ends = np.array([row * padded + column for row, column in AROUND], np.int32), np.empty((n, 2), np.int32)
    argsort(flat, order)
    extremes[0], extremes[1] = order[0], order[n - 1]
    place = np.empty(n, np.int32)
    for row in range(height):
        for column in range(width):
            place[row * width + column] = (row + 1) * padded + column + 1
    for rank in range(n):
        sequence[rank + 1] = place[order[rank]]
        time[sequence[rank + 1]] = rank + 1
    for k in range(8):
        step, bit = steps[k], np.uint8(1 << k)
        for pixel in range(padded + 1, (height + 1) * padded - 1):
            entered[pixel] |= bit if time[pixel + step] < time[pixel] else np.uint8(0)
    for group in range(2):
        if group:  # the other way round: who was there is not, and the frame is
            sequence[1:] = sequence[:0:-1].copy()
            for pixel in range(len(time)):
                time[pixel], entered[pixel] = n + 1 - time[pixel], ~entered[pixel]
        counts[group] = 0
        for k in range(merge(sequence, time, entered, ASK_4 if group else ASK_8, steps, parent, ends)):
            birth = order[n - ends[k, 1] if group else ends[k, 0] - 1]
            death = order[n - ends[k, 0] if group else ends[k, 1] - 1]
            if flat[birth] < flat[death]:
                pixels[group, counts[group], 0], pixels[group, counts[group], 1] = birth, death
                counts[group] += 1


@compiled
def find_diagrams(images: np.ndarray, pixels: np.ndarray, counts: np.ndarray, extremes: np.ndarray) -> None:
    """Find the diagrams of each image (N, H, W); the others as in `diagrams`, with a leading N."""
    for k in range(len(images)):
        diagrams(images[k], pixels[k], counts[k], extremes[k])
