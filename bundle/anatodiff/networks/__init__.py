"""Networks: DiT, its fine-tuning modes, the Shape Prototype Module and the builders."""

from anatodiff.networks.build import (
    DIT_SIZES,
    Adapter,
    Base,
    build_anatodiff,
    build_dit,
    load_adapter,
    load_base,
    save_adapter,
    save_base,
    with_classes,
)
from anatodiff.networks.dit import DiT
from anatodiff.networks.finetuning import set_finetuning, trained_names, trained_parameters
from anatodiff.networks.prototypes import ShapePrototypeModule

__all__ = [
    "DIT_SIZES",
    "Adapter",
    "Base",
    "DiT",
    "ShapePrototypeModule",
    "build_anatodiff",
    "build_dit",
    "load_adapter",
    "load_base",
    "save_adapter",
    "save_base",
    "set_finetuning",
    "trained_names",
    "trained_parameters",
    "with_classes",
]
