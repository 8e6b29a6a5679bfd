"""Networks: DiT, its fine-tuning modes, the Shape Prototype Module, the U-Nets to compare with, and the builders."""

from anatodiff.networks.adapter import Adapter, build_anatodiff, load_adapter, save_adapter
from anatodiff.networks.base import (
    DIT_SIZES,
    Base,
    build_dit,
    load_base,
    load_start,
    save_base,
    start_dit,
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
from anatodiff.networks.unet_baselines import (
    UNetBaseline,
    build_unet_baseline,
    load_unet_baseline,
    save_unet_baseline,
)

__all__ = [
    "DIT_SIZES",
    "Adapter",
    "Base",
    "ConditionedUNet",
    "DiT",
    "FineTuning",
    "ShapePrototypeModule",
    "UNetBaseline",
    "build_anatodiff",
    "build_dit",
    "build_unet_baseline",
    "load_adapter",
    "load_base",
    "load_start",
    "load_unet_baseline",
    "low_ranks",
    "merge_adapter",
    "merged",
    "save_adapter",
    "save_base",
    "save_model",
    "save_unet_baseline",
    "set_finetuning",
    "split_adapter",
    "start_dit",
    "trained_names",
    "trained_parameters",
    "trained_parts",
    "with_classes",
]
