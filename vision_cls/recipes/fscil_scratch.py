"""FSCIL from scratch: mini-ImageNet, a network trained on 60 base classes, then eight 5-way 5-shot sessions.

The clean protocol of CEC (Zhang et al., Few-Shot Incremental Learning with Continually Evolved Classifiers, CVPR 2021):
the network sees the images of the base classes alone, as a cosine classifier of these, and what it is after its last
epoch is frozen; the later classes are learned by methods on its features that train nothing more. Settings are chosen
in rehearsals among the base classes, whose features are better than those of new classes will be, since the network was
trained on all of them. See the recipe `fscil` for the columns. Conv4 is small enough for a processor, ResNet-18 is for
a GPU; published figures, of ResNet-18 but for NC-FSCIL's ResNet-12, stand beside where there are any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.precision import has_bf16
from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from ..backbones import Classifier, Conv4, TorchvisionModel
from ..crop_flip import CropFlip
from ..data import ImageSet, mini_imagenet_stream
from ..episodic import CosineTraining
from ..features import features_of
from ..session_table import normalized, table

BATCH = 128
METHODS = ("ncm", "teen", "knn", "lda", "ranpac balanced", "ours")
PUBLISHED = {
    "CEC": (72.00, 47.63, 57.75),
    "FACT": (72.56, 50.49, 60.70),
    "TEEN": (73.53, 52.08, 61.44),
    "BiDist": (74.65, 53.39, 62.06),
    "SAVC": (81.12, 57.11, 67.05),
    "NC-FSCIL (ResNet-12)": (84.02, 58.31, 67.82),
}
"""Accuracy after the base session, after the last, and the average over all nine, from the papers' own tables."""


@dataclass(frozen=True)
class Network:
    """A network and how long it is trained.

    Attributes:
        name: of the backbone.
        epochs: over the base images.
    """

    name: str
    epochs: int

    def build(self, size: int, seed: int) -> Classifier:
        """The network with random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.name == "conv4":
                return Conv4(3, size, 1)
            return TorchvisionModel(3, size, 1, self.name)


NETWORKS = {"conv4": Network("conv4", 6), "resnet18": Network("resnet18", 100)}


def reproduce(
    *,
    seeds: int | None = None,
    data: Path | None = None,
    out: Path,
    only: Sequence[str] = (),
    epochs: int | None = None,
) -> Results:
    """Trains a network, runs the methods on its features and prints their table beside the published figures.

    Training is checkpointed in ``out``, finished runs are kept there; a reproduction that was stopped goes on.

    Args:
        seeds: of the methods that have chance in them; 1 by default. There is one network.
        data: folder with ``mini_imagenet_fscil``, see `mini_imagenet_stream`; by default ``$MEMREPLAY_DATA``.
        out: folder for the results and checkpoints.
        only: networks, ``conv4`` or ``resnet18``; by default ResNet-18 where there is an accelerator, else Conv4.
        epochs: of training; by default 6 for Conv4 and 100 for ResNet-18.

    Raises:
        ValueError: ``only`` names no network.
        FileNotFoundError: the data is not there.
    """
    check_asked(only, NETWORKS)
    stream = mini_imagenet_stream(data)
    base = stream.train.rows(stream.sessions[0].train)
    base = base.of_classes(base.classes[: len(stream.sessions[0].classes)])
    default = "resnet18" if torch.accelerator.is_available() else "conv4"
    asked = [replace(NETWORKS[name], epochs=epochs or NETWORKS[name].epochs) for name in only or (default,)]
    results = Results("vision_cls/fscil-scratch", {"networks": [vars(network) for network in asked]})
    results.config["published: base, last, average"] = PUBLISHED
    for network in asked:
        folder = out / f"{network.name}-{network.epochs}-epochs"
        model = trained(network, base, folder / "training")
        train, test = (
            normalized(features_of(model, images, cache=folder / "features"), images.labels)
            for images in (stream.train, stream.test)
        )
        prefix = f"{network.name}, {network.epochs} epochs: "
        table(results, METHODS, stream.sessions, train, test, seeds or 1, folder / "runs", prefix)
    results.print()
    for name, figures in PUBLISHED.items():
        print(f"{name:<22} base session {figures[0]:.2f}  last {figures[1]:.2f}  average {figures[2]:.2f}")
    print(f"percent; wrote {results.save(out)}")
    return results


def trained(network: Network, base: ImageSet, out: Path, seed: int = 0) -> Classifier:
    """The network after its last epoch: a cosine classifier of the base classes, see `CosineTraining`; crops and mirror
    images, bf16 where it is fast. A run that was stopped goes on."""
    model = network.build(base.images.shape[-1], seed)
    steps = network.epochs * (len(base) // BATCH)
    how = CosineTraining(steps=steps, batch_size=min(BATCH, len(base)), augment=CropFlip())
    how.train(model, base, seed=seed, out=out, resume=True, save_every=50, log_every=10, forward=_in_half)
    return model.eval()


def _in_half(model: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Logits of a cosine classifier, with the features alone in bf16, where it is fast."""
    images = batch["input"].contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=has_bf16()):
        feature = model.features(images)
    return {"logits": model.cosine(feature.float())}
