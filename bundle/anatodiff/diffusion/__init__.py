"""Noise schedule, guidance and samplers."""

from anatodiff.diffusion.draws import batch_indices, generator, normal, normal_each, uniform_each
from anatodiff.diffusion.guidance import Denoiser, Guidance, guided
from anatodiff.diffusion.samplers import SAMPLERS, ddim, ddpm
from anatodiff.diffusion.schedule import NoiseSchedule
from anatodiff.diffusion.settings import DiffusionSettings

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "DiffusionSettings",
    "Guidance",
    "NoiseSchedule",
    "batch_indices",
    "ddim",
    "ddpm",
    "generator",
    "guided",
    "normal",
    "normal_each",
    "uniform_each",
]
