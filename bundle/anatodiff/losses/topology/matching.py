"""Matching of persistence diagrams as compiled code: shortest augmenting paths, the value and its subgradient.

Compiled functions call none of another file, because numba's cache on disk would not see it change.
"""

from __future__ import annotations

import numpy as np
from numba import njit

NORM_1, NORM_2, NORM_INF = 0, 1, 2
TO_DIAGONAL = (1.0, 2.0**-0.5, 0.5)  # by norm: distance of a point to the diagonal per unit of its persistence
ESSENTIAL_BIRTH, ESSENTIAL_MAX, ESSENTIAL_NONE = 0, 1, 2

WORD = 8  # columns whose marks are looked at together, as one uint64

compiled = njit(nogil=True, cache=True, boundscheck=False)


@compiled
def distance(birth: float, death: float, norm: int) -> float:
    """Length of a vector of the birth-death plane (the ground norm of eq. 18)."""
    if norm == NORM_1:
        return abs(birth) + abs(death)
    if norm == NORM_2:
        return np.sqrt(birth * birth + death * death)
    return max(abs(birth), abs(death))


@compiled
def direction(birth: float, death: float, norm: int) -> tuple[float, float]:
    """Subgradient of `distance`, zero at zero and shared where both parts are the largest."""
    if norm == NORM_2:
        length = np.sqrt(birth * birth + death * death)
        return (birth / length, death / length) if length > 0.0 else (0.0, 0.0)
    down, up = np.sign(birth), np.sign(death)
    if norm == NORM_INF:
        difference = np.sign(abs(birth) - abs(death))
        down, up = down * (1.0 + difference) / 2.0, up * (1.0 - difference) / 2.0
    return down, up


@njit(nogil=True, cache=True, boundscheck=False, fastmath={"reassoc", "nnan", "nsz"})
def largest(savings: np.ndarray, price: np.ndarray) -> float:
    """The most that savings (m,) exceed the price (m,), or 0; the order does not matter: vector instructions."""
    best = 0.0
    for column in range(len(price)):
        net = savings[column] - price[column]
        best = net if net > best else best
    return best


@compiled
def search(
    saving: np.ndarray,
    start: int,
    dual: np.ndarray,
    price: np.ndarray,
    owner: np.ndarray,
    nearest: np.ndarray,
    came_from: np.ndarray,
    reached: np.ndarray,
    closed: np.ndarray,
    way: np.ndarray,
    shorter: np.ndarray,
) -> tuple[float, int, int, int, int]:
    """Find the shortest path from a new row to a free column, or to a row that goes to the diagonal (Dijkstra).

    Lengths are prices less savings. What is not shorter than the best end so far is not followed.

    Args:
        saving: (n, m) float64, what each pair saves against the diagonal, not negative.
        start: the new row.
        dual: (n,) dual variables of the rows, at most 0; 0 for the new one.
        price: (m,) dual variables of the columns, at least 0.
        owner: (m,) row of each column, -1 for free ones.
        nearest: (m,) zeros; becomes the length of the way to each column that was reached.
        came_from: (m,) becomes the row before each of these.
        reached: (m,) becomes these columns: those that are behind, in order, then those that are still ahead.
        closed: (m,) becomes the lengths of the ways to the former.
        way: (m,), scratch.
        shorter: (m or up to 7 more,) uint8, scratch; what is beyond m is zero.

    Returns:
        length of the path, its last row, its last column (-1 for the diagonal), columns reached, columns behind.
    """
    row, length, limit, last_row, last_column = start, 0.0, 0.0, start, -1
    n_reached, n_closed, marks = 0, 0, shorter.view(np.uint64)
    for column in range(len(price)):  # the best free column first: what is beyond it need not be reached
        there = price[column] - saving[start, column]
        if there < limit and owner[column] < 0:
            limit, last_column = there, column
    while True:
        base, savings = length - dual[row], saving[row]
        # Without a branch: vector instructions. As a function of its own it took 6 % longer.
        for column in range(len(price)):
            there = base + price[column] - savings[column]
            way[column] = there
            shorter[column] = np.uint8(1) if (there < nearest[column]) & (there < limit) else np.uint8(0)
        for word in range(len(marks)):
            if marks[word] == 0:
                continue
            for column in range(WORD * word, min(WORD * (word + 1), len(price))):
                there = way[column]
                if shorter[column] == 0 or there >= limit:
                    continue
                if owner[column] < 0:
                    limit, last_row, last_column = there, row, column
                    continue
                if nearest[column] == 0.0:
                    reached[n_reached] = column
                    n_reached += 1
                nearest[column], came_from[column] = there, row
        length, at = limit, -1
        for k in range(n_closed, n_reached):
            if nearest[reached[k]] < length:
                length, at = nearest[reached[k]], k
        if at < 0:
            return limit, last_row, last_column, n_reached, n_closed
        column = reached[at]
        reached[at], reached[n_closed], closed[n_closed] = reached[n_closed], column, length
        nearest[column] = -np.inf  # rounding must not reach it again
        n_closed += 1
        row = owner[column]
        if length - dual[row] < limit:
            limit, last_row, last_column = length - dual[row], row, -1


@compiled
def ascending(values: np.ndarray) -> np.ndarray:
    """Sort by buckets, then by insertion: a quarter of the time of numba's own; returns the order (n,)."""
    n, low = len(values), values.min()
    gap = values.max() - low
    bucket, first, order = np.zeros(n, np.int64), np.zeros(n + 1, np.int64), np.empty(n, np.int64)
    for i in range(n):
        if 0.0 < gap < np.inf:
            bucket[i] = np.int64((values[i] - low) / gap * (n - 1))
        first[bucket[i] + 1] += 1
    for k in range(n):
        first[k + 1] += first[k]
    for i in range(n):
        order[first[bucket[i]]] = i
        first[bucket[i]] += 1
    for k in range(1, n):
        i, place = order[k], k
        while place > 0 and values[order[place - 1]] > values[i]:
            order[place] = order[place - 1]
            place -= 1
        order[place] = i
    return order


@compiled
def first_prices(few: np.ndarray, many: np.ndarray, price: np.ndarray) -> None:
    """Fill price (m,) of many (m, 2) with dual variables for the norm 1 that are nearly the best ones.

    Any h of slope at most 1 is a dual solution: |b - b'| + |d - d'| >= (h(d) - h(b)) - (h(d') - h(b')). The best of
    this kind climbs where few (n, 2) has more bars alive than many, falls where it has fewer, and proves that the
    distance is at least the area between the two Betti curves.
    """
    n, m = len(few), len(many)
    ends = np.concatenate((many[:, 0], many[:, 1], few[:, 0], few[:, 1]))
    heights, height, surplus, last = np.empty(2 * m), 0.0, 0, ends.min()
    for end in ascending(ends):
        height += np.sign(surplus) * (ends[end] - last)
        last = ends[end]
        if end < 2 * m:
            heights[end] = height
        surplus += 1 if m <= end < 2 * m + n else -1  # a bar of few begins or one of many ends
    for j in range(m):
        price[j] = max(many[j, 1] - many[j, 0] + heights[m + j] - heights[j], 0.0)


@compiled
def take_free(
    saving: np.ndarray,
    rows: np.ndarray,
    dual: np.ndarray,
    price: np.ndarray,
    owner: np.ndarray,
    partner: np.ndarray,
) -> np.ndarray:
    """Give each of the rows the column that is best at these prices, if it is still free; returns those left over."""
    left, count = np.empty(len(rows), np.int64), 0
    for i in rows:
        best = largest(saving[i], price)
        if best <= 0.0:
            continue
        dual[i] = -best
        for j in range(len(price)):
            if saving[i, j] - price[j] == best and owner[j] < 0:
                owner[j], partner[i] = i, j
                break
        if partner[i] < 0:
            left[count] = i
            count += 1
    return left[:count]


@compiled
def augment(
    saving: np.ndarray,
    rows: np.ndarray,
    dual: np.ndarray,
    price: np.ndarray,
    owner: np.ndarray,
    partner: np.ndarray,
) -> None:
    """Bring in each of the rows by the shortest path; the other arguments as in `search`, partner as in `match`."""
    m = len(price)
    came_from, reached = np.empty(m, np.int64), np.empty(m, np.int64)
    nearest, closed, way = np.zeros(m), np.empty(m), np.empty(m)
    shorter = np.zeros((m + WORD - 1) // WORD * WORD, np.uint8)
    for start in rows:
        dual[start] = 0.0
        limit, row, column, n_reached, n_closed = search(
            saving, start, dual, price, owner, nearest, came_from, reached, closed, way, shorter
        )
        # What is behind becomes dearer, until every step of the path costs nothing.
        dual[start] = limit
        for k in range(n_reached):
            if k < n_closed:
                price[reached[k]] += limit - closed[k]
                dual[owner[reached[k]]] += limit - closed[k]
            nearest[reached[k]] = 0.0
        while True:
            left = partner[row]
            partner[row] = column
            if column >= 0:
                owner[column] = row
            if row == start:
                break
            row, column = came_from[left], left


@compiled
def match(saving: np.ndarray, rows: np.ndarray, price: np.ndarray, partner: np.ndarray) -> None:
    """Choose pairs of the largest total saving: an assignment by shortest augmenting paths, the diagonal implicit.

    Args:
        saving: (n, m) float64, what each pair saves against the diagonal, not negative.
        rows: (n,) order in which the rows enter.
        price: (m,) dual variables of the columns to start from, at least 0; the better, the fewer paths.
        partner: (n,) becomes the column of each row, -1 for the diagonal.
    """
    owner, dual = np.full(len(price), -1, np.int64), np.zeros(len(rows))
    partner[:] = -1
    augment(saving, take_free(saving, rows, dual, price, owner, partner), dual, price, owner, partner)
    # A column that nobody took is worth nothing; one whose price says otherwise looks for a row in its turn.
    columns = np.flatnonzero((owner < 0) & (price > 0.0))
    if len(columns) > 0:
        augment(saving.T.copy(), columns, -price, -dual, partner, owner)


@compiled
def fill_savings(few: np.ndarray, many: np.ndarray, norm: int, saving: np.ndarray) -> None:
    """Fill saving (n, m) with what pairing few (n, 2) with many (m, 2) saves: diagonal_i + diagonal_j - cost_ij, or 0.

    In the norm 1 that is twice the overlap of the two bars.
    """
    births, deaths = many[:, 0].copy(), many[:, 1].copy()
    for i in range(len(few)):
        birth, death, row = few[i, 0], few[i, 1], saving[i]
        if norm == NORM_1:
            for j in range(len(births)):  # written so that it becomes vector instructions
                start = births[j] if births[j] > birth else birth
                end = deaths[j] if deaths[j] < death else death
                row[j] = 2.0 * (end - start) if end > start else 0.0
        else:
            for j in range(len(births)):
                lives = (death - birth) + (deaths[j] - births[j])
                row[j] = max(TO_DIAGONAL[norm] * lives - distance(birth - births[j], death - deaths[j], norm), 0.0)


@compiled
def partners(points: np.ndarray, others: np.ndarray, norm: int, partner: np.ndarray) -> None:
    """Find for each of the points (n, 2) its partner among the others (m, 2), -1 for the diagonal (gamma of eq. 18)."""
    few, many = (points, others) if len(points) <= len(others) else (others, points)
    n, m = len(few), len(many)
    partner[:] = -1
    if n == 0:
        return
    saving, chosen = np.empty((n, m)), np.empty(n, np.int64)
    fill_savings(few, many, norm, saving)
    price = np.zeros(m)
    if norm == NORM_1:
        first_prices(few, many, price)
    # Those that persist enter first and are displaced least.
    match(saving, np.argsort(few[:, 0] - few[:, 1], kind="mergesort"), price, chosen)
    for i in range(n):
        j = chosen[i]
        if j >= 0 and saving[i, j] > 0.0:
            if len(points) <= len(others):
                partner[i] = j
            else:
                partner[j] = i


@compiled
def transport(points: np.ndarray, others: np.ndarray, norm: int, gradient: np.ndarray) -> float:
    """Move one diagram into another at the least total cost (eq. 18, p = 1).

    Args:
        points: (n, 2) births and deaths.
        others: (m, 2) births and deaths.
        norm: code of the ground norm.
        gradient: (n, 2) becomes the subgradient with respect to `points`.

    Returns:
        the cost.
    """
    to_diagonal, total = TO_DIAGONAL[norm], 0.0
    partner, taken = np.empty(len(points), np.int64), np.zeros(len(others), np.bool_)
    partners(points, others, norm, partner)
    for i in range(len(points)):
        j = partner[i]
        if j < 0:
            total += to_diagonal * (points[i, 1] - points[i, 0])
            gradient[i, 0], gradient[i, 1] = -to_diagonal, to_diagonal
        else:
            taken[j] = True
            birth, death = points[i, 0] - others[j, 0], points[i, 1] - others[j, 1]
            total += distance(birth, death, norm)
            gradient[i, 0], gradient[i, 1] = direction(birth, death, norm)
    for j in range(len(others)):
        if not taken[j]:
            total += to_diagonal * (others[j, 1] - others[j, 0])
    return total


@compiled
def points_of(
    image: np.ndarray,
    pixels: np.ndarray,
    count: int,
    extremes: np.ndarray,
    close: bool,
    points: np.ndarray,
) -> int:
    """Write the points (count or count + 1, 2) of one diagram; the component that never dies last, where it is closed.

    Args:
        image: (n,) float64.
        pixels: (room, 2) pixels of birth and death; gets those of that component, too.
        count: number of points.
        extremes: (2,) first and last pixel to enter.
        close: whether that component dies at the maximum.
        points: (room, 2), the result.

    Returns:
        number of points.
    """
    if close:
        pixels[count, 0], pixels[count, 1] = extremes[0], extremes[1]
        count += 1
    for i in range(count):
        points[i, 0], points[i, 1] = image[pixels[i, 0]], image[pixels[i, 1]]
    return count


@compiled
def compare_diagrams(
    images: np.ndarray,
    targets: np.ndarray,
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    wanted: tuple[np.ndarray, np.ndarray, np.ndarray],
    groups: np.ndarray,
    norm: int,
    essential: int,
    values: np.ndarray,
    gradients: np.ndarray,
) -> None:
    """Compute the distance of each image to its target, summed over the groups, and its subgradient.

    Args:
        images: (N, n) float64.
        targets: (N, n) float64.
        found: diagrams of the images: pixels (N, 2, room, 2), counts (N, 2), extremes (N, 2).
        wanted: diagrams of the targets, in the same way.
        groups: (2,) bool, whether H0 and H1 count.
        norm: code of the ground norm.
        essential: code of what becomes of the component that never dies.
        values: (N,) becomes the distances.
        gradients: (N, n) zeros, becomes the subgradients.
    """
    (pixels, counts, extremes), (other_pixels, other_counts, other_extremes) = found, wanted
    room = pixels.shape[2]
    points, others, change = np.empty((room, 2)), np.empty((room, 2)), np.empty((room, 2))
    for k in range(len(images)):
        values[k] = 0.0
        for group in range(2):
            if not groups[group]:
                continue
            mine, close = pixels[k, group], group == 0 and essential == ESSENTIAL_MAX
            n = points_of(images[k], mine, counts[k, group], extremes[k], close, points)
            m = points_of(targets[k], other_pixels[k, group], other_counts[k, group], other_extremes[k], close, others)
            values[k] += transport(points[:n], others[:m], norm, change)
            for i in range(n):
                gradients[k, mine[i, 0]] += change[i, 0]
                gradients[k, mine[i, 1]] += change[i, 1]
        if groups[0] and essential == ESSENTIAL_BIRTH:
            gap = images[k, extremes[k, 0]] - targets[k, other_extremes[k, 0]]
            values[k] += abs(gap)
            gradients[k, extremes[k, 0]] += np.sign(gap)
