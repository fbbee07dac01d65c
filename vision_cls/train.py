"""Train: a classifier of one's own images or of a known data set, all classes at once or in few-shot sessions.

Run as ``memreplay vision train``, ``accelerate launch -m memreplay.vision_cls.train`` or
``torchrun -m memreplay.vision_cls.train``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..arguments import Parser, near_miss, run
from ..core.heads import LinearHead
from ..core.memory_readout import MemoryReadout
from ..core.protocols.sessions import Sessions
from ..core.reporting import Results, Trace
from ..core.reporting.cases import save_cases
from ..core.reporting.results import note
from ..core.training import new_accelerator
from .adapter import ImageAdapter, Recipe
from .backbones import MLP, Classifier, TorchvisionModel
from .data import Data, Digits, ImageSet
from .encoder import ImageEncoder
from .incremental import Outcome, learn_sessions
from .learner import Learner, Stage

_METHODS = Path(__file__).parent / "recipes"


def default_backbone(channels: int, size: int, classes: int) -> Classifier:
    """ResNet-18 with ImageNet weights, which torchvision downloads; for images below 32 pixels a perceptron.

    Raises:
        ValueError: the weights cannot be downloaded.
    """
    if size < 32:
        return MLP(channels, size, classes)
    try:
        return TorchvisionModel(channels, size, classes, "resnet18", "default")
    except OSError as error:
        raise ValueError(
            f"backbone is null, which means ResNet-18 with weights that cannot be downloaded: {error}; expected a "
            "backbone, such as TorchvisionModel with --backbone.weights FILE, or Conv4, which is trained from scratch"
        ) from error


def train(
    data: Data = Digits(),  # noqa: B008 (immutable)
    backbone: Callable[[int, int, int], Classifier] | None = None,
    learner: Learner | None = None,
    recipe: Recipe = Recipe(),  # noqa: B008 (immutable)
    base: int | None = None,
    way: int | None = None,
    shot: int | None = 5,
    sessions: int | None = None,
    class_order: Literal["shuffled"] | list[int] | None = None,
    first: Stage = Stage(epochs=30, lr=0.1),  # noqa: B008 (immutable)
    later: Stage = Stage(steps=100, lr=0.03),  # noqa: B008 (immutable)
    augment: nn.Module | None = None,
    seed: int = 0,
    mixed_precision: Literal["no", "fp16", "bf16"] = "no",
    gradient_accumulation: int = 1,
    clip_norm: float | None = None,
    workers: int = 0,
    save_every: int | None = None,
    log_every: int = 50,
    out: Path = Path("runs/vision"),
    resume: bool = False,
) -> Outcome:
    """Learns all classes, or base classes and then sessions of new ones from a few shots each; tells what is known
    after each, and saves an adapter that can be asked, taught more and made to forget.

    Args:
        data: where the images come from.
        backbone: the network, made from the images' channels and size and the number of classes; null: ResNet-18 with
            ImageNet weights, or for images below 32 pixels a perceptron.
        learner: how the network is trained, with a memory or without; null: a network that comes with weights stays as
            it is, and only its head is solved for, any other is trained without a memory.
        recipe: how the adapter learns, and the head where it is solved for.
        base: classes of the base session; null: all, and there is but one session.
        way: new classes in each later session.
        shot: images of each new class; null for all.
        sessions: sessions after the base; null: until no class is left.
        class_order: null: ascending; ``shuffled`` by the seed; or the classes one by one.
        first: how the base session is learned, where the network is trained.
        later: how the later ones are.
        augment: changes new images by chance in every epoch, such as ``memreplay.vision_cls.Augment`` or a transform of
            ``torchvision.transforms.v2``, where the network is trained.
        seed: of the weights, the shots, the order of the images and their changes. Seeds of the memory are its own.
        mixed_precision: as accelerate knows it.
        gradient_accumulation: batches per optimizer step.
        clip_norm: largest norm of the gradient; null: any.
        workers: processes that load and change images ahead.
        save_every: optimizer steps between checkpoints, besides one at the end of every session.
        log_every: optimizer steps between the lines of ``metrics.jsonl``, of which every session has its own.
        out: folder for the adapter and the results.
        resume: go on with the run in ``out``.
    """
    from accelerate.utils import set_seed  # type: ignore[import-untyped,unused-ignore]

    if (base is None) != (way is None) and sessions != 0:
        raise ValueError(f"base is {base} and way is {way}; expected both, or neither to learn all classes at once")
    accelerator = new_accelerator(mixed_precision=mixed_precision, gradient_accumulation_steps=gradient_accumulation)
    set_seed(seed)
    train_set, test_set = data.load("train"), data.load("test")
    stream = _stream(train_set, base, way, shot, sessions, class_order, seed)
    channels, size = train_set.images.shape[1:3]
    model = (backbone or default_backbone)(channels, size, len(train_set.classes)).to(accelerator.device)
    began = time.perf_counter()
    if learner is None and _has_weights(model):
        adapter = ImageAdapter(ImageEncoder(model, channels, size), recipe)
        outcome = _solved(adapter, stream, train_set, test_set)
        if accelerator.is_main_process:
            for number, (after, spent) in enumerate(zip(outcome.by_session, outcome.seconds, strict=True)):
                note(out, f"session-{number}", {**asdict(after), "seconds": spent})
    else:
        learner = learner or Learner()
        if learner.memory is not None and learner.memory.trace is None:
            learner.memory.trace = Trace()  # what the report shows
        outcome = learn_sessions(
            learner,
            model,
            stream,
            train_set,
            test_set,
            [first, later],
            seed=seed,
            accelerator=accelerator,
            out=out,
            resume=resume,
            save_every=save_every,
            log_every=log_every,
            clip_norm=clip_norm,
            augment=augment,
            workers=workers,
            as_bytes=True,
        )
        adapter = adapted(learner.judged(model), model, recipe, stream, train_set)
    seconds = time.perf_counter() - began
    if accelerator.is_main_process:
        adapter.save(out)
        config = {"seed": seed, "sessions": repr(stream), "stream": stream.digest, "learn_seconds": seconds}
        results = Results("vision_cls/train", {**config, "class_names": list(train_set.classes)})
        _report(results, outcome, len(stream))
        results.memory_bytes = outcome.memory_bytes
        results.add_cost("", [seconds], [outcome.memory_bytes])
        results.save(out)
        save_cases(adapter.explained(test_set), out)
        results.print()
        print(f"{len(adapter.classes)} classes learned in {seconds:.1f} s; the adapter is in {out}")
    accelerator.wait_for_everyone()
    return outcome


def adapted(judged: nn.Module, model: Classifier, recipe: Recipe, sessions: Sessions, train: ImageSet) -> ImageAdapter:
    """The adapter of a network that was trained, with its head; its memory holds some of the images it learned from.
    All of their classes came first; later are those that are added to the adapter.

    Args:
        judged: what the network is read out by: itself, an average of it, or a memory.
        model: the network.
        recipe: how the adapter learns from now on.
        sessions: what it was trained on.
        train: the images of these sessions.
    """
    network = judged if isinstance(judged, Classifier) else model
    learned = torch.cat([session.train for session in sessions])
    images = train.part(learned.sort().values)
    size = train.images.shape[-1]
    some = ImageEncoder(network, train.images.shape[1], size, scale=1.0).embed(images.images[:512])
    scale = float(some.norm(dim=1).mean().clamp(min=1e-6))
    encoder = ImageEncoder(network, train.images.shape[1], size, scale)
    if isinstance(judged, Classifier):
        known = sessions[-1].seen.sort().values
        weight, bias = network.head.weight.detach().cpu()[known], network.head.bias
        head = LinearHead(scale * weight, None if bias is None else bias.detach().cpu()[known])
        adapter = ImageAdapter(encoder, recipe)
        adapter.learn(images, head)
    else:
        adapter = ImageAdapter(encoder, replace(recipe, readout=MemoryReadout("mean", share=1.0)))
        adapter.learn(images)
    return adapter


def _stream(
    train: ImageSet,
    base: int | None,
    way: int | None,
    shot: int | None,
    sessions: int | None,
    class_order: Literal["shuffled"] | list[int] | None,
    seed: int,
) -> Sessions:
    """The sessions; a class with too few images is told by its name."""
    if base is None:
        return Sessions(train.labels, len(train.classes), 1, None, 0, class_order, seed=seed)
    options: dict[str, Any] = {"sessions": sessions, "class_order": class_order, "seed": seed}
    if shot is not None:
        counts = train.labels.bincount(minlength=len(train.classes))
        for session in Sessions(train.labels, base, way or 1, None, **options)[1:]:
            for label in session.classes.tolist():
                if counts[label] < shot:
                    raise ValueError(
                        f"class {train.classes[label]!r} has {counts[label]} images to learn from; expected at least "
                        f"{shot}, as shot is {shot}: add images, lower shot, or take all there are with shot null"
                    )
    return Sessions(train.labels, base, way or 1, shot, **options)


def _has_weights(model: Classifier) -> bool:
    """Whether a network was made with weights that were learned before."""
    return model.made_with.get("weights") is not None or bool(model.made_with.get("pretrained"))


def _solved(adapter: ImageAdapter, sessions: Sessions, train: ImageSet, test: ImageSet) -> Outcome:
    """Teaches ``adapter`` one session after the other, by solving for its head, and judges it after each."""
    outcome = Outcome()
    asked = adapter.encoder.embed(test.images)
    for number, session in enumerate(sessions):
        began = time.perf_counter()
        adapter.learn(train.part(session.train))
        outcome.seconds.append(time.perf_counter() - began)
        label = torch.tensor([train.classes.index(name) for name in adapter.classes])
        rows = session.test(test.labels)
        outcome.note(label[adapter.probabilities(asked[rows]).argmax(1)], test.labels[rows], sessions, number)
    outcome.memory_bytes = adapter.memory.nbytes
    return outcome


def _report(results: Results, outcome: Outcome, sessions: int) -> None:
    if sessions == 1:
        results.add("test", "accuracy", [outcome.last.overall])
        return
    for number, after in enumerate(outcome.by_session):
        for metric in ("overall", "base") if number == 0 else ("overall", "base", "novel", "harmonic"):
            results.add(f"after session {number}", metric, [getattr(after, metric)])
            results.add_point("", metric, "session", number, [getattr(after, metric)])
    results.add(f"after session {sessions - 1}", "forgetting", [outcome.matrix.forgetting])


def main(args: Sequence[str] | None = None) -> None:
    """The entry point: ``--config FILE`` takes a YAML file, or the name of a method in this package, such as ``er``."""
    parser = Parser(prog="memreplay vision train", description=(train.__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--config", action="config", help="a YAML file, or a method: " + ", ".join(methods()))
    parser.add_function_arguments(train, as_group=False, fail_untyped=True)
    try:
        words = _with_methods(list(sys.argv[1:] if args is None else args))
    except ValueError as error:
        parser.error(str(error))
    run(train, parser, words)


def methods() -> list[str]:
    """Names of the methods that come as YAML files."""
    return sorted(path.stem for path in _METHODS.glob("*.yaml"))


def _with_methods(args: list[str]) -> list[str]:
    """``args`` with the method named after ``--config`` replaced by its file, unless there is a file of that name."""
    for i, word in enumerate(args[1:], 1):
        if args[i - 1] == "--config" and not Path(word).exists():
            if word not in methods():
                near = near_miss(word, methods())
                raise ValueError(
                    f"config is {word!r}; expected a file or one of {', '.join(methods())}"
                    + (f"; did you mean {near}?" if near else "")
                )
            args[i] = str(_METHODS / f"{word}.yaml")
    return args


if __name__ == "__main__":
    main()
