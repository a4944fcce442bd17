"""Training: batches, units and the trainer; checkpoints, and values that are told."""

from kinfold.training.batch import SequenceBatch
from kinfold.training.checkpoints import newest_checkpoint
from kinfold.training.data import BatchReader
from kinfold.training.metrics import Recorder
from kinfold.training.progress import ProgressLine
from kinfold.training.recorders import JsonLinesRecorder, TensorBoardRecorder
from kinfold.training.trainer import Trainer, TrainingResult
from kinfold.training.unit import AbstractTrainUnit, TrainUnit

__all__ = [
    "AbstractTrainUnit",
    "BatchReader",
    "JsonLinesRecorder",
    "ProgressLine",
    "Recorder",
    "SequenceBatch",
    "TensorBoardRecorder",
    "TrainUnit",
    "Trainer",
    "TrainingResult",
    "newest_checkpoint",
]
