"""FasterRCNN: a Faster R-CNN with a feature pyramid, described in words that fit in a configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from .detector import Detector
from .torchvision_detector import TorchvisionDetector


@dataclass(frozen=True)
class FasterRCNN:
    """A Faster R-CNN (Ren et al., NeurIPS 2015) with a feature pyramid (Lin et al., CVPR 2017), built of torchvision's
    parts, or of detectron2's around a backbone of torchvision.

    Args:
        backbone: a torchvision classifier by name whose layers run one after the other, such as ``resnet50``,
            ``mobilenet_v2``, ``mobilenet_v3_large``, ``efficientnet_b0``; or ``small``, for small and simple images.
        weights: a file with weights for it, under torchvision's names: safetensors, or a state dict of PyTorch. Null:
            random ones. Batch statistics are frozen.
        fixed: of its layers, the first ones, which never learn: their weights are buffers.
        levels: strides of the maps that the pyramid is made of.
        channels: of the pyramid.
        pool: height and width of a pooled region.
        head: numbers that describe a region, in the box head.
        regions: sampled on an image to learn from,
        positive: and the share of objects among them, at most.
        proposals: on an image, at most; twice as many while it learns.
        min_size: an image is resized so that its shorter side has this many pixels; of several, the last, and one of
            them at random while it learns,
        max_size: unless its longer side had more than this.
        anchor: size of the anchors on the first level, in pixels; each level has twice that of the one before.
        ratios: heights of the anchors, divided by their widths.
        mean: of red, green and blue, subtracted from images in [0, 1],
        std: and what they are then divided by.
        detections: on an image, at most.
        backend: the library whose detector it becomes. torchvision is always there; detectron2 is on no package index,
            see its own instructions.
    """

    backbone: str = "resnet50"
    weights: Path | None = None
    fixed: int = 0
    levels: tuple[int, ...] = (4, 8, 16, 32)
    channels: int = 256
    pool: int = 7
    head: int = 1024
    regions: int = 512
    positive: float = 0.25
    proposals: int = 1000
    min_size: int | tuple[int, ...] = 800
    max_size: int = 1333
    anchor: int = 32
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    detections: int = 100
    backend: Literal["torchvision", "detectron2"] = "torchvision"

    def __str__(self) -> str:
        return f"{self.backend}'s Faster R-CNN with {self.backbone}"

    def build(self, classes: int, seed: int = 0) -> Detector:
        """The detector for a number of classes, its other weights random by ``seed``, the same ones for both back-ends.

        Raises:
            ValueError: there is no such backbone, it has not these levels, the weights are not its own, or the back-end
                is not installed.
        """
        made = self._of_torchvision(classes, seed)
        return made if self.backend == "torchvision" else self.carried(made)

    def carried(self, detector: Detector) -> Detector:
        """A detector of torchvision that was built by these words, as one of detectron2 with the same weights.

        Raises:
            ValueError: the detector is none of torchvision, or detectron2 is not installed.
        """
        if not isinstance(detector, TorchvisionDetector):
            raise ValueError(f"detector is a {type(detector).__name__}; expected one of torchvision")
        try:
            from .detectron2.faster_rcnn import carried
        except ImportError as error:
            raise ValueError(
                f"backend is 'detectron2', which cannot be imported ({error}); expected it to be installed, or "
                "torchvision, which needs nothing else"
            ) from error
        return carried(detector, self)

    def _of_torchvision(self, classes: int, seed: int) -> TorchvisionDetector:
        from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
        from torchvision.models.detection.rpn import AnchorGenerator
        from torchvision.ops import MultiScaleRoIAlign

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pyramid = self._pyramid()
            count = len(self.levels) + 1
            model = TorchvisionFasterRCNN(
                pyramid,
                min_size=self.min_size,
                max_size=self.max_size,
                image_mean=self.mean,
                image_std=self.std,
                rpn_anchor_generator=AnchorGenerator(
                    tuple((self.anchor * 2**level,) for level in range(count)), (self.ratios,) * count
                ),
                rpn_pre_nms_top_n_train=2 * self.proposals,
                rpn_pre_nms_top_n_test=self.proposals,
                rpn_post_nms_top_n_train=2 * self.proposals,
                rpn_post_nms_top_n_test=self.proposals,
                box_roi_pool=MultiScaleRoIAlign([str(level) for level in range(count - 1)], self.pool, 2),
                box_head=_box_head(self.channels * self.pool**2, self.head),
                box_predictor=_predictor(self.head, classes),
                box_batch_size_per_image=self.regions,
                box_positive_fraction=self.positive,
                box_detections_per_img=self.detections,
            )
        # on CPUs convolutions are quicker on channels that lie side by side
        return TorchvisionDetector(model.to(memory_format=torch.channels_last))

    def _pyramid(self) -> nn.Module:
        from torchvision.models.detection.backbone_utils import BackboneWithFPN

        body = self._body()
        found = stages(body)
        lacking = [stride for stride in self.levels if stride not in found]
        if lacking:
            raise ValueError(f"levels is {self.levels}; {self.backbone} has the strides {sorted(found)}")
        names = {found[stride][0]: str(level) for level, stride in enumerate(self.levels)}
        return cast(nn.Module, BackboneWithFPN(body, names, [found[s][1] for s in self.levels], self.channels))

    def _body(self) -> nn.Module:
        if self.backbone == "small":
            return fixing(small(), self.fixed)
        import torchvision.models
        from torchvision.ops import FrozenBatchNorm2d

        if self.backbone not in torchvision.models.list_models(module=torchvision.models):
            raise ValueError(f"backbone is {self.backbone!r}; expected a classifier of torchvision by name, or small")
        try:
            model = torchvision.models.get_model(self.backbone, weights=None, norm_layer=FrozenBatchNorm2d)
        except TypeError:
            raise ValueError(f"backbone is {self.backbone!r}, whose batch statistics cannot be frozen") from None
        body = getattr(model, "features", model)
        if self.weights is not None:
            _load(model, body, self.weights)
        return fixing(cast(nn.Module, body), self.fixed)


def stages(body: nn.Module) -> dict[int, tuple[str, int]]:
    """The last layer at every stride, and its channels, of layers that run one after the other.

    Raises:
        ValueError: the layers do not run so.
    """
    found: dict[int, tuple[str, int]] = {}
    x = torch.zeros(1, 3, 128, 128)
    with torch.no_grad():
        for name, layer in body.named_children():
            try:
                x = layer(x)
            except RuntimeError as error:
                raise ValueError(f"the layers of the backbone do not run one after the other: {error}") from error
            if x.dim() != 4 or x.shape[-1] < 2:
                break
            found[128 // x.shape[-1]] = (name, x.shape[1])
    return found


def fixing(body: nn.Module, layers: int) -> nn.Module:
    """``body``, changed in place: the parameters of its first layers become buffers, which keep their names.

    Raises:
        ValueError: it has not so many layers.
    """
    every = list(body.children())
    if not 0 <= layers <= len(every):
        raise ValueError(f"fixed is {layers}; expected at most the {len(every)} layers of the backbone")
    for layer in every[:layers]:
        for module in layer.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
    return body


def small() -> nn.Sequential:
    """Four stages of convolutions, strides 2 to 16, without batch statistics: for digits and the like."""
    layers: list[nn.Module] = []
    width = 3
    for channels in (16, 32, 64, 64):
        convolutions = (nn.Conv2d(width, channels, 3, 2, 1), nn.Conv2d(channels, channels, 3, 1, 1))
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        layers.append(nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU()))
        width = channels
    return nn.Sequential(*layers)


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors, or from PyTorch's format without running code.

    Raises:
        ValueError: the file holds anything else.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]
    if not isinstance(loaded, Mapping) or not all(isinstance(values, Tensor) for values in loaded.values()):
        raise ValueError(f"weights is {str(path)!r}, which holds no state dict")
    return dict(loaded)


def _load(model: nn.Module, body: nn.Module, path: Path) -> None:
    weights = {name: values.float() for name, values in read_weights(path).items()}
    used = {id(values) for values in (*body.parameters(), *body.buffers())}
    needed = {n for n, values in (*model.named_parameters(), *model.named_buffers()) if id(values) in used}
    lacking = sorted(name for name in needed - weights.keys() if not name.startswith("fc."))
    if lacking:
        raise ValueError(f"weights is {str(path)!r}, which lacks {len(lacking)} tensors, such as {lacking[0]!r}")
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"weights is {str(path)!r}: {error}") from error


def _box_head(size: int, width: int) -> Any:
    from torchvision.models.detection.faster_rcnn import TwoMLPHead

    return TwoMLPHead(size, width)


def _predictor(width: int, classes: int) -> Any:
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

    return FastRCNNPredictor(width, classes + 1)
