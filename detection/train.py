"""Train: a detector from images with boxes; and where some classes are named novel, these from a few shots afterwards.

Run as ``memreplay detection train``, ``accelerate launch -m memreplay.detection.train`` or
``torchrun -m memreplay.detection.train``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ..arguments import command
from ..core.reporting import Results
from ..core.reporting.cases import save_cases
from ..core.reporting.results import note
from ..core.stores import Store
from ..core.training import new_accelerator
from .adapter import DetectionAdapter
from .base import BaseTraining
from .data import DetectionData, DetectionSet
from .evaluate import judge_groups
from .faster_rcnn import FasterRCNN
from .memory import ROIMemory
from .regions import fill, stream
from .shots import Shots
from .tuning import FineTuning


def train(
    data: DetectionData,
    test: DetectionData | None = None,
    detector: FasterRCNN = FasterRCNN(),  # noqa: B008 (immutable)
    base: BaseTraining = BaseTraining(),  # noqa: B008 (immutable)
    novel: list[str] | None = None,
    shot: int = 5,
    shots: Path | None = None,
    tuning: FineTuning = FineTuning(),  # noqa: B008 (immutable)
    objects: int = 1000,
    background: int = 500,
    thumbnail: int = 32,
    written: Literal["afterwards", "throughout"] = "afterwards",
    seed: int = 0,
    mixed_precision: Literal["no", "fp16", "bf16"] = "no",
    gradient_accumulation: int = 1,
    save_every: int | None = None,
    out: Path = Path("runs/detection"),
    resume: bool = False,
) -> DetectionAdapter:
    """Learns to detect classes, fills a memory of their regions, and saves an adapter that can be taught more.

    Args:
        data: images to learn from: ``Coco``, ``Voc`` or ``Scenes``.
        test: images to be judged on; null: none.
        detector: its architecture, and the back-end: torchvision's by default, or detectron2's, where it is installed.
        base: how the first classes are learned.
        novel: classes that are learned afterwards, from a few boxes each; null: none, all are learned at first.
        shot: boxes of each of them.
        shots: a file of `Shots` to take these from; null: they are drawn by the seed, and written to ``out``.
        tuning: how they are learned.
        objects: regions of objects in the memory, the same number of every class.
        background: regions of background in it.
        thumbnail: side in pixels of the small pictures of these regions, for people; 0: none.
        written: whether the memory is filled in one pass by the finished detector, or while it learns. Features of a
            backbone that still learns go stale.
        seed: of the weights, the shots, the memory and the order of the images.
        mixed_precision: as accelerate knows it.
        gradient_accumulation: batches per optimizer step.
        save_every: optimizer steps between checkpoints, besides one at the end.
        out: folder for the adapter and the results.
        resume: go on with the run in ``out``.
    """
    from accelerate.utils import set_seed  # type: ignore[import-untyped,unused-ignore]

    learned = data.load()
    judged = None if test is None else test.load()
    for name in novel or []:
        if name not in learned.classes:
            raise ValueError(f"novel has {name!r}; expected some of {', '.join(learned.classes)}")
    names = [name for name in learned.classes if name not in (novel or [])]
    # what the shots are is known before anything is learned
    few = None if not novel else _few(learned, novel, shot, shots, seed)
    print(f"the detector is {detector}")
    accelerator = new_accelerator(mixed_precision=mixed_precision, gradient_accumulation_steps=gradient_accumulation)
    set_seed(seed)
    options: dict[str, Any] = {"seed": seed, "accelerator": accelerator, "resume": resume, "save_every": save_every}
    model = detector.build(len(names), seed).to(accelerator.device)
    throughout = None
    if written == "throughout":
        throughout = ROIMemory.of_rows(objects, background, logits=True, seed=seed)
    seconds = base.train(model, learned.of(names), throughout, out=out / "base", **options).seconds
    model.tap = tuning.tap
    memory = throughout
    if memory is None:
        made_by = model.fingerprint()
        memory = tuning.new_memory(objects, background, seed=seed, fingerprint=made_by) or ROIMemory.of_rows(
            objects, background, logits=True, seed=seed, fingerprint=made_by
        )
        shown = thumbnail if isinstance(memory.objects, Store) else 0
        fill(memory, stream(model, learned.of(names), seed=seed, thumbnail=shown))
    adapter = DetectionAdapter(detector, model, names, memory)
    results = Results("detection/train", {"seed": seed, "classes": names, "novel": novel or []})
    if accelerator.is_main_process:
        known = {} if judged is None else judge_groups(results, "first classes", adapter, judged, 0)
        note(out, "base", {"seconds": seconds, **known})
    if few is not None:
        if accelerator.is_main_process:
            few[0].save(out / "shots.json")
        spent = adapter.add_classes(few[1], tuning, out=out / "novel", **options)
        seconds += spent
        results.config |= {"shots": few[0].digest, "shot": few[0].shot, "seconds_novel": round(spent, 2)}
        if accelerator.is_main_process:
            known = {} if judged is None else judge_groups(results, "all classes", adapter, judged, 1)
            note(out, "novel", {"seconds": spent, **known})
    if accelerator.is_main_process:
        adapter.save(out)
        results.memory_bytes = memory.nbytes
        results.config["class_names"] = adapter.classes
        results.add_cost("", [seconds], [results.memory_bytes])
        results.save(out)
        if judged is not None:
            save_cases(adapter.explained(judged), out)
        print(
            f"{len(adapter.classes)} classes learned; {memory.nbytes / 1e6:.1f} MB of memory; the adapter is in {out}"
        )
        if results.rows:
            results.print(decimals=1)
    accelerator.wait_for_everyone()
    return adapter


def _few(data: DetectionSet, novel: list[str], shot: int, path: Path | None, seed: int) -> tuple[Shots, DetectionSet]:
    """The shots of the novel classes, and the images with them."""
    drawn = Shots.draw(data, novel, shot, seed) if path is None else Shots.load(path)
    if set(drawn.classes) != set(novel):
        raise ValueError(f"shots is {str(path)!r}, which has the classes {drawn.classes}; expected novel, {novel}")
    return drawn, drawn.of(data, novel)


def main(args: Sequence[str] | None = None) -> None:
    """The entry point; ``--config FILE`` takes the options from a YAML file."""
    command(train, "memreplay detection train", args, config="a YAML file with options")


if __name__ == "__main__":
    main()
