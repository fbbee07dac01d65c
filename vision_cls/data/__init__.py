"""Labelled images, and the places they come from."""

from .cifar_fs import CifarFS
from .class_parts import ByClass, ClassData, ClassParts
from .cub import Cub
from .digits import Digits, digits
from .few_shot_stream import FewShotStream, listed_sessions, mini_imagenet_stream
from .folder import ImageFolder, image_folder
from .hub import HubData
from .image_set import ImageSet, Split, stratified_split
from .mini_imagenet import MiniImageNet
from .omniglot import Omniglot, omniglot, omniglot_runs, rotated
from .source import Data
from .torchvision_data import TorchvisionData, torchvision_dataset

__all__ = [
    "ByClass",
    "CifarFS",
    "ClassData",
    "ClassParts",
    "Cub",
    "Data",
    "Digits",
    "FewShotStream",
    "HubData",
    "ImageFolder",
    "ImageSet",
    "MiniImageNet",
    "Omniglot",
    "Split",
    "TorchvisionData",
    "digits",
    "image_folder",
    "listed_sessions",
    "mini_imagenet_stream",
    "omniglot",
    "omniglot_runs",
    "rotated",
    "stratified_split",
    "torchvision_dataset",
]
