"""Networks trained for episodes: by meta-training, or on all base classes at once."""

from .anil import ANILTraining
from .cosine import CosineTraining
from .protonet import ProtoNet
from .training import Training
from .views import Views

__all__ = ["ANILTraining", "CosineTraining", "ProtoNet", "Training", "Views"]
