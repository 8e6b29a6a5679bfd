"""What a person reads: figures and one HTML page that holds everything."""

from anatodiff.report.figures import (
    diagrams_figure,
    embedding_figure,
    grid_figure,
    losses_figure,
    spectrum_figure,
)
from anatodiff.report.page import Figure, Table, write_page

__all__ = [
    "Figure",
    "Table",
    "diagrams_figure",
    "embedding_figure",
    "grid_figure",
    "losses_figure",
    "spectrum_figure",
    "write_page",
]
