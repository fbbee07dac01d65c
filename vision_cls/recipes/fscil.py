"""FSCIL on mini-ImageNet with frozen ImageNet features (transfer): 60 base classes, then eight 5-way 5-shot sessions.

The protocol of CEC (Zhang et al., Few-Shot Incremental Learning with Continually Evolved Classifiers, CVPR 2021) with
the official shots: 500 images of each base class, five of each later one, 100 test images per class; after every
session all classes so far are told apart. The features are those of an ImageNet MobileNetV2 at 193 pixels, which has
seen all these classes in its training: the table compares methods on the same features, and is no clean result beside
published ones.

Settings are chosen in rehearsals: sessions among the 60 base classes, on their training images alone. Base, novel and
harmonic accuracy are those after the last session, in percent; average is the mean over all nine sessions of the
accuracy on all classes so far, drop its fall from the first to the last. Intervals are over the seeds of a method; the
shots are given. Where a method has no chance in it there is one run. Seconds are of one processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from ..backbones import TorchvisionModel
from ..data import mini_imagenet_stream
from ..data.archive import root_of
from ..features import default_cache, features_of
from ..session_methods import CANDIDATES
from ..session_table import normalized, table

SEEDS = 3
SIZE = 193
WEIGHTS = "weights_vision/mobilenet_v2_imagenet_features.safetensors"


def reproduce(
    *, seeds: int | None = None, data: Path | None = None, out: Path, only: Sequence[str] = (), processes: int = 2
) -> Results:
    """Runs the methods over the sessions and prints their table.

    Features are kept in the cache of `features_of`, finished runs in ``out/runs``.

    Args:
        seeds: of the methods that have chance in them; 3 by default.
        data: folder with ``mini_imagenet_fscil``, see `mini_imagenet_stream`, and the weights in ``weights_vision``;
            by default ``$MEMREPLAY_DATA``. Without the file of weights torchvision's own are used (a download).
        out: folder for the results.
        only: methods.
        processes: methods at a time, one thread each.

    Raises:
        ValueError: ``only`` names no method.
        FileNotFoundError: the data is not there.
    """
    check_asked(only, CANDIDATES)
    stream = mini_imagenet_stream(data)
    model = backbone(root_of(data))
    train, test = (
        normalized(features_of(model, images, size=SIZE, cache=default_cache()), images.labels)
        for images in (stream.train, stream.test)
    )
    results = Results("vision_cls/fscil", {"backbone": "MobileNetV2, ImageNet (transfer)", "size": SIZE})
    names = [name for name in CANDIDATES if not only or name in only]
    count = SEEDS if seeds is None else seeds
    table(results, names, stream.sessions, train, test, count, out / "runs", processes=processes)
    results.print()
    print(f"percent, mean ± 95 % interval over the seeds of a method; wrote {results.save(out)}")
    return results


def backbone(root: Path) -> TorchvisionModel:
    """MobileNetV2 with the weights in ``root``, or torchvision's where there are none."""
    path = root / WEIGHTS
    if not path.is_file():
        return TorchvisionModel(3, SIZE, 1, "mobilenet_v2", "default")
    half = (0.5, 0.5, 0.5)
    return TorchvisionModel(3, SIZE, 1, "mobilenet_v2", path, mean=half, std=half)
