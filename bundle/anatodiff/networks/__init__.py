"""Networks: DiT, its fine-tuning modes, the Shape Prototype Module, the U-Nets to compare with, and the builders."""

from anatodiff.networks.adapter import Adapter, build_anatodiff, load_adapter, save_adapter
from anatodiff.networks.base import (
    DIT_SIZES,
    Base,
    build_dit,
    load_base,
    save_base,
    with_classes,
)
from anatodiff.networks.conditioned_unet import ConditionedUNet
from anatodiff.networks.dit import DiT
from anatodiff.networks.finetuning import (
    FineTuning,
    low_ranks,
    set_finetuning,
    trained_names,
    trained_parameters,
    trained_parts,
)
from anatodiff.networks.merge import merge_adapter, merged, save_model, split_adapter
from anatodiff.networks.prototypes import ShapePrototypeModule
from anatodiff.networks.start import load_start, start_dit, untrained_base
from anatodiff.networks.told import ConditionSettings, set_conditions
from anatodiff.networks.unet_baselines import build_unet_baseline

__all__ = [
    "DIT_SIZES",
    "Adapter",
    "Base",
    "ConditionSettings",
    "ConditionedUNet",
    "DiT",
    "FineTuning",
    "ShapePrototypeModule",
    "build_anatodiff",
    "build_dit",
    "build_unet_baseline",
    "load_adapter",
    "load_base",
    "load_start",
    "low_ranks",
    "merge_adapter",
    "merged",
    "save_adapter",
    "save_base",
    "save_model",
    "set_conditions",
    "set_finetuning",
    "split_adapter",
    "start_dit",
    "trained_names",
    "trained_parameters",
    "trained_parts",
    "untrained_base",
    "with_classes",
]
