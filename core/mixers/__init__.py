"""Mixers: how what is recalled enters the loss, as terms that add up or as a projection of the gradient."""

from .binary_cross_entropy import BinaryCrossEntropy
from .cross_entropy import CrossEntropy, JointCrossEntropy, ReplayCrossEntropy
from .ema import EMA
from .episodic import Episodic
from .feature_distillation import FeatureDistillation
from .knowledge_distillation import KnowledgeDistillation
from .logit_distillation import LogitDistillation
from .masked import MaskedCrossEntropy
from .mean_squared_error import MeanSquaredError, ReplayMeanSquaredError
from .projection import AGem
from .prototype import PrototypeLoss
from .schedule import CosineSchedule, LinearSchedule, Schedule
from .term import Composable, RowTerm, Scaled, Sum, Term, learnable
from .transform import FeatureNoise, RandomAffine, RandomElastic, Transform
from .uncertainty import UncertaintyWeighting
from .view import Forward, View, joint_forward

__all__ = [
    "EMA",
    "AGem",
    "BinaryCrossEntropy",
    "Composable",
    "CosineSchedule",
    "CrossEntropy",
    "Episodic",
    "FeatureDistillation",
    "FeatureNoise",
    "Forward",
    "JointCrossEntropy",
    "KnowledgeDistillation",
    "LinearSchedule",
    "LogitDistillation",
    "MaskedCrossEntropy",
    "MeanSquaredError",
    "PrototypeLoss",
    "RandomAffine",
    "RandomElastic",
    "ReplayCrossEntropy",
    "ReplayMeanSquaredError",
    "RowTerm",
    "Scaled",
    "Schedule",
    "Sum",
    "Term",
    "Transform",
    "UncertaintyWeighting",
    "View",
    "joint_forward",
    "learnable",
]
