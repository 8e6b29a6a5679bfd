"""The squared maximum mean discrepancy of two sets under any kernel, without bias, and its standard error."""

from __future__ import annotations

from collections.abc import Callable

import torch

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
        first: (n, D) features, n >= 3, float64.
        second: (m, D) features, m >= 3, float64.
        kernel: of a block (b, D) and a set (m, D), (b, m).
        block_size: rows of the kernel matrix in memory at a time; it changes the memory, not the value.

    Returns:
        value and standard error.

    Raises:
        ValueError: the block has no rows.

    References:
        Gretton et al., A kernel two-sample test, 2012, eq. 3.
    """
    if block_size < 1:
        raise ValueError(f"block_size={block_size} is not a positive number of rows.")
    xx, yy = (_row_sums(side, side, kernel, block_size)[0] for side in (first, second))  # (n,), (m,)
    xx, yy = xx - _with_itself(first, kernel), yy - _with_itself(second, kernel)
    xy, yx = _row_sums(first, second, kernel, block_size)  # (n,), (m,)
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
    return torch.cat([kernel(few, few).diagonal() for few in features.split(64)])  # (n,)


def _row_sums(a: torch.Tensor, b: torch.Tensor, kernel: Kernel, block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the kernel matrix over b for each sample of a, and over a for each sample of b."""
    over_b, over_a = [], b.new_zeros(len(b))
    for block in a.split(block_size):
        values = kernel(block, b)  # (block, m)
        over_b.append(values.sum(dim=1))
        over_a += values.sum(dim=0)
    return torch.cat(over_b), over_a
