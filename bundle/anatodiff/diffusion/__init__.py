"""Noise schedule, guidance and samplers."""

from anatodiff.diffusion.draws import batch_indices, generator, normal, normal_each, uniform_each
from anatodiff.diffusion.guidance import Denoiser, guided
from anatodiff.diffusion.samplers import SAMPLERS, ddim, ddpm
from anatodiff.diffusion.schedule import NoiseSchedule, linear_schedule

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "NoiseSchedule",
    "batch_indices",
    "ddim",
    "ddpm",
    "generator",
    "guided",
    "linear_schedule",
    "normal",
    "normal_each",
    "uniform_each",
]
