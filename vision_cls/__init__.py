"""Few-shot image classification."""

from .adapter import ImageAdapter, ImagePrediction, Recipe
from .backbones import MLP, Classifier, Conv4, TorchvisionModel
from .data import (
    ByClass,
    CifarFS,
    ClassParts,
    Cub,
    Digits,
    HubData,
    ImageFolder,
    ImageSet,
    MiniImageNet,
    Omniglot,
    TorchvisionData,
    digits,
    image_folder,
    omniglot,
    omniglot_runs,
    rotated,
    stratified_split,
    torchvision_dataset,
)
from .encoder import ImageEncoder

__all__ = [
    "MLP",
    "ByClass",
    "CifarFS",
    "ClassParts",
    "Classifier",
    "Conv4",
    "Cub",
    "Digits",
    "HubData",
    "ImageAdapter",
    "ImageEncoder",
    "ImageFolder",
    "ImagePrediction",
    "ImageSet",
    "MiniImageNet",
    "Omniglot",
    "Recipe",
    "TorchvisionData",
    "TorchvisionModel",
    "digits",
    "image_folder",
    "omniglot",
    "omniglot_runs",
    "rotated",
    "stratified_split",
    "torchvision_dataset",
]
