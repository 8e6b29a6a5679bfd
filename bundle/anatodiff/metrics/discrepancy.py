"""The squared maximum mean discrepancy of two sets under any kernel, without bias, and its standard error."""

from __future__ import annotations

from collections.abc import Callable

import torch

from anatodiff.metrics.pairs import float64_blocks

Kernel = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# Leaving one sample out must leave two: the unbiased mean over pairs divides by n - 1.
MIN_SAMPLES = 3


def squared_discrepancy(
    first: torch.Tensor,
    second: torch.Tensor,
    kernel: Kernel,
    block_size: int,
) -> tuple[float, float]:
    """Estimate the squared maximum mean discrepancy without bias.

    With S the sums of k over all ordered pairs of different samples,
    ``value = S_xx / (n (n - 1)) + S_yy / (m (m - 1)) - 2 S_xy / (n m)``.

    ``stderr`` is the two-sample jackknife over samples: with v_i the value without x_i, w_j the value without y_j and
    bars for their means,
    ``stderr^2 = (n - 1) / n * sum_i (v_i - v_bar)^2 + (m - 1) / m * sum_j (w_j - w_bar)^2``.
    All v_i and w_j follow from the row sums of k, at no cost. Where both sets come from one distribution this is too
    large rather than too small, by about the square root of two.

    Args:
        first: (n, D) features, n >= 3.
        second: (m, D) features, m >= 3.
        kernel: of two blocks (b, D) and (c, D) in float64, (b, c); symmetric.
        block_size: rows and columns of the kernel matrix in memory at a time; it changes the memory, not the value.

    Returns:
        value and standard error.

    Raises:
        ValueError: the block has no rows.

    References:
        Gretton et al., A kernel two-sample test, 2012, eq. 3.
    """
    if block_size < 1:
        raise ValueError(f"block_size={block_size} is not a positive number of rows.")
    xx, yy = (_sums_among(side, kernel, block_size) for side in (first, second))  # (n,), (m,)
    xx, yy = xx - _with_itself(first, kernel), yy - _with_itself(second, kernel)
    xy, yx = _sums_between(first, second, kernel, block_size)  # (n,), (m,)
    n, m = len(first), len(second)
    total_xx, total_yy, total_xy = xx.sum(), yy.sum(), xy.sum()
    mean_xx, mean_yy = total_xx / (n * (n - 1)), total_yy / (m * (m - 1))
    value = mean_xx + mean_yy - 2 * total_xy / (n * m)
    # A sample leaves the sum over ordered pairs twice, as a row and as a column.
    without_x = (total_xx - 2 * xx) / ((n - 1) * (n - 2)) + mean_yy - 2 * (total_xy - xy) / ((n - 1) * m)  # (n,)
    without_y = mean_xx + (total_yy - 2 * yy) / ((m - 1) * (m - 2)) - 2 * (total_xy - yx) / (n * (m - 1))  # (m,)
    variance = (n - 1) * without_x.var(correction=0) + (m - 1) * without_y.var(correction=0)
    return float(value), float(variance.sqrt())


def _with_itself(features: torch.Tensor, kernel: Kernel) -> torch.Tensor:
    return torch.cat([kernel(few, few).diagonal() for few in float64_blocks(features, 64)])  # (n,)


def _sums_among(features: torch.Tensor, kernel: Kernel, block_size: int) -> torch.Tensor:
    """Sum the kernel matrix of one set over its rows, (n,)."""
    sums = features.new_zeros(len(features), dtype=torch.float64)
    for i, rows in enumerate(float64_blocks(features, block_size)):
        start = i * block_size
        # What lies below the diagonal is the mirror image of what lies above it.
        for j, columns in enumerate(float64_blocks(features[start:], block_size)):
            values = kernel(rows, columns)  # (b, c)
            sums[start : start + len(rows)] += values.sum(dim=1)
            if j > 0:
                other = start + j * block_size
                sums[other : other + len(columns)] += values.sum(dim=0)
    return sums


def _sums_between(
    a: torch.Tensor,
    b: torch.Tensor,
    kernel: Kernel,
    block_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the kernel matrix over b for each sample of a, and over a for each sample of b."""
    over_b, over_a = (side.new_zeros(len(side), dtype=torch.float64) for side in (a, b))
    for rows, row_sums in zip(float64_blocks(a, block_size), over_b.split(block_size), strict=True):
        for columns, column_sums in zip(float64_blocks(b, block_size), over_a.split(block_size), strict=True):
            values = kernel(rows, columns)  # (b, c)
            row_sums += values.sum(dim=1)
            column_sums += values.sum(dim=0)
    return over_b, over_a
