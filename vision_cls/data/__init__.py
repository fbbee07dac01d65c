"""Labelled images, and the places they come from."""

from .digits import Digits, digits
from .folder import ImageFolder, image_folder
from .image_set import ImageSet, Split, stratified_split
from .source import Data
from .torchvision_data import TorchvisionData, torchvision_dataset

__all__ = [
    "Data",
    "Digits",
    "ImageFolder",
    "ImageSet",
    "Split",
    "TorchvisionData",
    "digits",
    "image_folder",
    "stratified_split",
    "torchvision_dataset",
]
