"""AnatoDiff: anatomically true synthetic radiographs from few images."""

__version__ = "0.1.0"
