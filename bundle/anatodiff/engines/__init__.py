"""Engines: batches, inferers, handlers and results that the configs put together."""

from anatodiff.engines.averaging import TrainedEMA, UpdateEMA
from anatodiff.engines.balance import Balance, build_balance
from anatodiff.engines.batches import DiffusionBatch, FixedBatches, ReconstructionBatch, StepBatches
from anatodiff.engines.checkpoints import Checkpoints, KeepAdapters
from anatodiff.engines.critic import CriticTraining, build_critic, perceptual_loss
from anatodiff.engines.ct import CTSampling, ct_base, ct_folder, ct_slices, ct_window, photograph_folder
from anatodiff.engines.ct_inference import adapter_codec, ct_copy_refusal, ct_requests, ct_writer_of
from anatodiff.engines.ct_requests import file_requests
from anatodiff.engines.ct_writer import CTSampleWriter
from anatodiff.engines.devices import choose_device, choose_precision, start_processes, stop_processes
from anatodiff.engines.finish import FineTuneResult
from anatodiff.engines.finish_weights import AutoencoderResult, PretrainResult
from anatodiff.engines.growth import GrowRanks
from anatodiff.engines.guard import StepGuard
from anatodiff.engines.handlers import LossLog, ProgressGrid, ReconstructionGrid, TensorBoardLog
from anatodiff.engines.inferers import NoisePredictionInferer, ReconstructionInferer, SamplingInferer
from anatodiff.engines.latent_damage import DamagedBatch, DamagedInferer
from anatodiff.engines.manifest import sampling_provenance
from anatodiff.engines.optimizers import Muon, build_optimizer
from anatodiff.engines.places import optional_folder
from anatodiff.engines.prepare import (
    Preparation,
    Prototypes,
    SourcesReading,
    dataset_folder,
    extra_folder,
    extra_images,
    extra_latents,
    latents_of,
    shape_prototypes,
)
from anatodiff.engines.release import copy_refusal
from anatodiff.engines.runs import end_run, start_run
from anatodiff.engines.sampling import SampleRequests, SampleWriter, sample, sampling_batch
from anatodiff.engines.schedules import LearningRate
from anatodiff.engines.told import RequestBatches, Told, condition_settings, context_codec
from anatodiff.engines.tracking import RunTracker, Tracked
from anatodiff.engines.training_record import DomainMeasures, TrainingRecord
from anatodiff.engines.validation import ValidationLog, ValidationLoss, is_lower
from anatodiff.engines.workflow import start_workflow

__all__ = [
    "AutoencoderResult",
    "Balance",
    "CTSampleWriter",
    "CTSampling",
    "Checkpoints",
    "CriticTraining",
    "DamagedBatch",
    "DamagedInferer",
    "DiffusionBatch",
    "DomainMeasures",
    "FineTuneResult",
    "FixedBatches",
    "GrowRanks",
    "KeepAdapters",
    "LearningRate",
    "LossLog",
    "Muon",
    "NoisePredictionInferer",
    "Preparation",
    "PretrainResult",
    "ProgressGrid",
    "Prototypes",
    "ReconstructionBatch",
    "ReconstructionGrid",
    "ReconstructionInferer",
    "RequestBatches",
    "RunTracker",
    "SampleRequests",
    "SampleWriter",
    "SamplingInferer",
    "SourcesReading",
    "StepBatches",
    "StepGuard",
    "TensorBoardLog",
    "Told",
    "Tracked",
    "TrainedEMA",
    "TrainingRecord",
    "UpdateEMA",
    "ValidationLog",
    "ValidationLoss",
    "adapter_codec",
    "build_balance",
    "build_critic",
    "build_optimizer",
    "choose_device",
    "choose_precision",
    "condition_settings",
    "context_codec",
    "copy_refusal",
    "ct_base",
    "ct_copy_refusal",
    "ct_folder",
    "ct_requests",
    "ct_slices",
    "ct_window",
    "ct_writer_of",
    "dataset_folder",
    "end_run",
    "extra_folder",
    "extra_images",
    "extra_latents",
    "file_requests",
    "is_lower",
    "latents_of",
    "optional_folder",
    "perceptual_loss",
    "photograph_folder",
    "sample",
    "sampling_batch",
    "sampling_provenance",
    "shape_prototypes",
    "start_processes",
    "start_run",
    "start_workflow",
    "stop_processes",
]
