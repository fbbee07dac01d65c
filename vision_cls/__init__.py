"""Few-shot image classification."""

from .backbones import MLP, Classifier, Conv4, TorchvisionModel
from .data import ImageSet, digits, image_folder, stratified_split, torchvision_dataset

__all__ = [
    "MLP",
    "Classifier",
    "Conv4",
    "ImageSet",
    "TorchvisionModel",
    "digits",
    "image_folder",
    "stratified_split",
    "torchvision_dataset",
]
