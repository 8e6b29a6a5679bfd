"""Noise schedules, guidance and samplers."""

from anatodiff.diffusion.continuous import ContinuousSchedule
from anatodiff.diffusion.draws import batch_indices, even_each, generator, normal, normal_each, ordered, uniform_each
from anatodiff.diffusion.guidance import Denoiser, Guidance, guided
from anatodiff.diffusion.samplers import SAMPLERS, ddim, ddpm, dpmpp
from anatodiff.diffusion.schedule import DiscreteSchedule, NoiseSchedule
from anatodiff.diffusion.settings import DiffusionSettings

__all__ = [
    "SAMPLERS",
    "ContinuousSchedule",
    "Denoiser",
    "DiffusionSettings",
    "DiscreteSchedule",
    "Guidance",
    "NoiseSchedule",
    "batch_indices",
    "ddim",
    "ddpm",
    "dpmpp",
    "even_each",
    "generator",
    "guided",
    "normal",
    "normal_each",
    "ordered",
    "uniform_each",
]
