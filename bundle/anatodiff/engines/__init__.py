"""Engines: batches, inferers, handlers and results that the configs put together."""

from anatodiff.engines.averaging import TrainedEMA, UpdateEMA
from anatodiff.engines.batches import DiffusionBatch, FixedBatches, ReconstructionBatch, StepBatches
from anatodiff.engines.checkpoints import Checkpoints
from anatodiff.engines.finish import AutoencoderResult, FineTuneResult, PretrainResult
from anatodiff.engines.handlers import LossLog, LossTerms, ProgressGrid, ReconstructionGrid
from anatodiff.engines.inferers import NoisePredictionInferer, ReconstructionInferer, SamplingInferer
from anatodiff.engines.prepare import Preparation, Prototypes, dataset_folder, shape_prototypes
from anatodiff.engines.sampling import SampleRequests, SampleWriter, sample, sampling_batch
from anatodiff.engines.schedules import LearningRate
from anatodiff.engines.validation import ValidationLog, ValidationLoss, is_lower
from anatodiff.engines.workflow import choose_device, start_workflow

__all__ = [
    "AutoencoderResult",
    "Checkpoints",
    "DiffusionBatch",
    "FineTuneResult",
    "FixedBatches",
    "LearningRate",
    "LossLog",
    "LossTerms",
    "NoisePredictionInferer",
    "Preparation",
    "PretrainResult",
    "ProgressGrid",
    "Prototypes",
    "ReconstructionBatch",
    "ReconstructionGrid",
    "ReconstructionInferer",
    "SampleRequests",
    "SampleWriter",
    "SamplingInferer",
    "StepBatches",
    "TrainedEMA",
    "UpdateEMA",
    "ValidationLog",
    "ValidationLoss",
    "choose_device",
    "dataset_folder",
    "is_lower",
    "sample",
    "sampling_batch",
    "shape_prototypes",
    "start_workflow",
]
