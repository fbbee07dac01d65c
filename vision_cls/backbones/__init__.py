"""Networks: a body that makes features, and a head that can grow."""

from .classifier import Classifier
from .conv4 import Conv4
from .mlp import MLP
from .normalize import Normalize
from .resnet12 import ResNet12
from .resnet20 import ResNet20
from .timm_model import TimmModel
from .torchvision_model import TorchvisionModel
from .transformers_model import TransformersModel

__all__ = [
    "MLP",
    "Classifier",
    "Conv4",
    "Normalize",
    "ResNet12",
    "ResNet20",
    "TimmModel",
    "TorchvisionModel",
    "TransformersModel",
]
