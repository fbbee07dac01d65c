"""Train: few-shot sessions on one's own images or a known data set, from a YAML file or the command line.

Run as ``memreplay vision train``, ``accelerate launch -m memreplay.vision_cls.train`` or
``torchrun -m memreplay.vision_cls.train``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from ..arguments import Parser, near_miss, run
from ..core.protocols.sessions import Sessions
from ..core.reporting import Results
from ..core.training import new_accelerator
from .backbones import MLP, Classifier
from .data import Data, Digits
from .incremental import Outcome, learn_sessions
from .learner import Learner, Stage

_METHODS = Path(__file__).parent / "recipes"


def train(
    data: Data = Digits(),  # noqa: B008 (immutable)
    backbone: Callable[[int, int, int], Classifier] = MLP,
    learner: Learner = Learner(),  # noqa: B008 (immutable)
    base: int = 6,
    way: int = 2,
    shot: int | None = 5,
    sessions: int | None = None,
    class_order: Literal["shuffled"] | list[int] | None = None,
    first: Stage = Stage(epochs=30, lr=0.1),  # noqa: B008 (immutable)
    later: Stage = Stage(steps=100, lr=0.03),  # noqa: B008 (immutable)
    seed: int = 0,
    mixed_precision: Literal["no", "fp16", "bf16"] = "no",
    gradient_accumulation: int = 1,
    save_every: int | None = None,
    out: Path = Path("runs/vision"),
    resume: bool = False,
) -> Outcome:
    """Learns base classes, then sessions of new classes from a few shots each, and tells what is known after each.

    Args:
        data: where the images come from.
        backbone: the network, made from the images' channels and size and the number of classes.
        learner: the memory, and what it remembers.
        base: classes of the base session.
        way: new classes in each later session.
        shot: images of each new class; null for all.
        sessions: sessions after the base; null: until no class is left.
        class_order: null: ascending; ``shuffled`` by the seed; or the classes one by one.
        first: how the base session is learned.
        later: how the later ones are.
        seed: of the weights, the shots and the order of the images. Seeds of the memory are its own.
        mixed_precision: as accelerate knows it.
        gradient_accumulation: batches per optimizer step.
        save_every: optimizer steps between checkpoints, besides one at the end of every session.
        out: folder for the results.
        resume: go on with the run in ``out``.
    """
    from accelerate.utils import set_seed  # type: ignore[import-untyped,unused-ignore]

    accelerator = new_accelerator(mixed_precision=mixed_precision, gradient_accumulation_steps=gradient_accumulation)
    set_seed(seed)
    train_set, test_set = data.load("train"), data.load("test")
    stream = Sessions(train_set.labels, base, way, shot, sessions, class_order, seed=seed)
    channels, size = train_set.images.shape[1:3]
    model = backbone(channels, size, len(train_set.classes)).to(accelerator.device)
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
    )
    if accelerator.is_main_process:
        results = Results("vision_cls/train", {"seed": seed, "sessions": repr(stream), "stream": stream.digest})
        for number, after in enumerate(outcome.by_session):
            for metric in ("overall", "base") if number == 0 else ("overall", "base", "novel", "harmonic"):
                results.add(f"after session {number}", metric, [getattr(after, metric)])
        if len(stream) > 1:
            results.add(f"after session {len(stream) - 1}", "forgetting", [outcome.matrix.forgetting])
        results.memory_bytes = outcome.memory_bytes
        results.save(out)
        results.print()
    return outcome


def main(args: Sequence[str] | None = None) -> None:
    """The entry point: ``--config FILE`` takes a YAML file, or the name of a method in this package, such as ``er``."""
    parser = Parser(prog="memreplay vision train", description=(train.__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", action="config", help="a YAML file, or a method: " + ", ".join(methods()))
    parser.add_function_arguments(train, fail_untyped=True)
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
