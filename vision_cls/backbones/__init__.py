"""Networks: a body that makes features, and a head that can grow."""

from .classifier import Classifier
from .conv4 import Conv4
from .mlp import MLP
from .normalize import Normalize
from .torchvision_model import TorchvisionModel

__all__ = ["MLP", "Classifier", "Conv4", "Normalize", "TorchvisionModel"]
