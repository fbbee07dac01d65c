"""detectron2 with a memory of regions: heads for its registry, and any of its Faster R-CNNs as a `Detector`.

detectron2 is on no package index; see its own instructions. Importing this package registers `ROIMemoryHeads`.
"""

from .checkpoint import read_checkpoint
from .detector import Detectron2Detector
from .heads import ROIMemoryHeads

__all__ = ["Detectron2Detector", "ROIMemoryHeads", "read_checkpoint"]
