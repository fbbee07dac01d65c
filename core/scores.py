"""Scores: one number per row that says how hard, informative or endangered it is, according to a model.

A score is worth storing (``memory.remember(**batch, loss=scores.loss(logits, labels))``, then ``TopScore("loss")``), or
is a model's verdict at recall. Nothing here leaves a trace on the model: no gradient, no change of mode or buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from .batch import batch_size
from .gradients import DenseGradients, Gradients, JoinedGradients, LinearGradients
from .linear_recorder import LinearRecorder
from .mixers.cross_entropy import cross_entropy
from .mixers.view import Forward, View, columns_of, logits_of_input, on_device

if TYPE_CHECKING:
    from .stores.rows import Rows

Criterion: TypeAlias = Callable[[View], Tensor]
"""One loss per row of a view, shape (B,)."""


def row_cross_entropy(view: View) -> Tensor:
    """The default criterion: cross-entropy of ``outputs["logits"]`` and ``rows["label"]``, (B,)."""
    return cross_entropy(view.output("logits"), view.column("label"), reduction="none")


@torch.no_grad()
def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each row, (B,), for logits (B, C) and labels (B,).

    >>> loss(torch.zeros(1, 2), torch.tensor([1]))
    tensor([0.6931])
    """
    return cross_entropy(logits, labels, reduction="none")


@torch.no_grad()
def el2n(logits: Tensor, labels: Tensor) -> Tensor:
    """Length of the error of the probabilities, ``|softmax(f(x)) - onehot(y)|``, (B,) (Paul et al., Deep Learning on a
    Data Diet, NeurIPS 2021, where it is averaged over several models early in training).

    >>> el2n(torch.zeros(1, 2), torch.tensor([1]))
    tensor([0.7071])
    """
    return _error(logits, labels).square().sum(1).sqrt()


@torch.no_grad()
def margin(logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """Probability of the label less that of the best other class, in [-1, 1], (B,); negative where the row is
    misclassified. Without labels, the best class less the second best (Scheffer et al., Active Hidden Markov Models for
    Information Extraction, 2001). Rows near the border have the smallest margins.

    >>> margin(torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([1]))
    tensor([-0.5000])
    """
    probabilities = logits.softmax(1)
    if labels is None:
        best, second = probabilities.topk(2, dim=1).values.unbind(1)
        return best - second
    own = labels.long().unsqueeze(1)
    return probabilities.gather(1, own).squeeze(1) - probabilities.scatter(1, own, -1.0).amax(1)


@torch.no_grad()
def gradient_norm(features: Tensor, logits: Tensor, labels: Tensor, *, bias: bool = True) -> Tensor:
    """Length of the gradient of each row's cross-entropy in the last, linear layer, (B,), in closed form:
    ``|softmax(f(x)) - onehot(y)| * sqrt(|h| ** 2 + 1)`` (the 1 is the bias). `per_sample_gradient_norm` has all layers.

    Args:
        features: (B, D), the input of the last layer.
        logits: (B, C), its output.
        labels: (B,).
        bias: whether the layer has a bias.

    >>> gradient_norm(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), torch.tensor([1]), bias=False)
    tensor([3.5355])
    """
    return el2n(logits, labels) * (features.square().sum(1) + float(bias)).sqrt()


@torch.no_grad()
def gradient_embedding(features: Tensor, logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """Gradient of each row's cross-entropy in the weights of the last, linear layer, (B, C * D), class by class:
    ``(softmax(f(x)) - onehot(y))_c * h`` (Ash et al., Deep Batch Active Learning by Diverse, Uncertain Gradient Lower
    Bounds (BADGE), ICLR 2020). Without labels the predicted class stands in, as in the paper.

    >>> gradient_embedding(torch.tensor([[2.0, 4.0]]), torch.zeros(1, 2), torch.tensor([1]))
    tensor([[ 1.,  2., -1., -2.]])
    """
    error = _error(logits, logits.argmax(1) if labels is None else labels)
    return (error.unsqueeze(2) * features.unsqueeze(1)).flatten(1)


@torch.no_grad()
def last_layer_gradients(features: Tensor, logits: Tensor, labels: Tensor, *, bias: bool = True) -> Gradients:
    """Gradient of each row's cross-entropy in the last, linear layer, for `GradientDiversity`; arguments as for
    `gradient_norm`. Made of ``h`` and ``softmax(f(x)) - onehot(y)``, without a matrix (B, C * D).

    >>> gradients = last_layer_gradients(torch.ones(2, 3), torch.zeros(2, 2), torch.tensor([0, 1]))
    >>> [values.tolist() for values in gradients.products(1)]
    [[[-2.0]], [2.0, 2.0]]
    """
    return LinearGradients(features, _error(logits, labels), bias=bias)


def factored_gradients(
    model: nn.Module,
    rows: Mapping[str, Tensor] | Rows,
    *,
    forward: Forward | None = None,
    criterion: Criterion = row_cross_entropy,
) -> Gradients:
    """The gradients of `per_sample_gradients`, for `GradientDiversity`, from one forward and backward over all rows.

    In linear layers and convolutions the gradient of a row is a product of what goes in and the gradient of what comes
    out, which gives inner products without a matrix (B, P). Parameters used in any other way, or more than once, take a
    second pass with `per_sample_gradients`; so does the whole model where a layer has something else than rows along
    its first axis, or rows depend on each other. Models with dropout must be in eval mode.

    Args:
        model: without the wrapper of several processes.
        rows: one row per experience, at least one.
        forward: ``forward(model, batch) -> outputs``; by default ``{"logits": model(batch["input"])}``.
        criterion: the loss of each row of a view.

    Raises:
        ValueError: no parameter requires a gradient, or the criterion does not give one loss per row.
    """
    call = _Functional(model, forward, criterion)
    factors, others = _factors(call, columns_of(rows))
    if others:
        factors.append(DenseGradients(_per_row(_flat, call, rows, names=others)))
    return JoinedGradients(factors)


def per_sample_gradients(
    model: nn.Module,
    rows: Mapping[str, Tensor] | Rows,
    *,
    forward: Forward | None = None,
    criterion: Criterion = row_cross_entropy,
    chunk_size: int | None = None,
) -> Tensor:
    """Gradient of each row's loss in all parameters that require one, (B, P), in the order of ``model.parameters()``.

    Exact, through `torch.func`. Models with batch statistics must be in eval mode, columns must be dense, and P numbers
    are held per row.

    Args:
        model: without the wrapper of several processes.
        rows: one row per experience.
        forward: ``forward(model, batch) -> outputs``; by default ``{"logits": model(batch["input"])}``.
        criterion: the loss of each row of a view.
        chunk_size: rows worked on at a time; None: all.
    """
    return _per_row(_flat, _Functional(model, forward, criterion), rows, chunk_size)


def per_sample_gradient_norm(
    model: nn.Module,
    rows: Mapping[str, Tensor] | Rows,
    *,
    forward: Forward | None = None,
    criterion: Criterion = row_cross_entropy,
    chunk_size: int | None = None,
) -> Tensor:
    """Length of the gradient of each row's loss in all parameters, (B,); arguments as for `per_sample_gradients`.

    Gradients are held for ``chunk_size`` rows at a time.
    """

    def length(gradients: dict[str, Tensor]) -> Tensor:
        return torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()

    return _per_row(length, _Functional(model, forward, criterion), rows, chunk_size)


def interference(
    model: nn.Module,
    rows: Mapping[str, Tensor] | Rows,
    batch: Mapping[str, Tensor],
    lr: float,
    *,
    forward: Forward | None = None,
    criterion: Criterion = row_cross_entropy,
) -> Tensor:
    """How much a step of plain gradient descent on ``batch`` would raise the loss of each of ``rows``, (B,) (Aljundi et
    al., Online Continual Learning with Maximal Interfered Retrieval (MIR), NeurIPS 2019):
    ``l(x; w - lr * gradient of the mean loss of the batch) - l(x; w)``.

    The step is virtual. The model is used in the mode it is in; with dropout, eval mode gives a score without noise.

    Args:
        model: without the wrapper of several processes.
        rows: candidates; they are moved to the device of ``batch``.
        batch: the new rows.
        lr: size of the step.
        forward: ``forward(model, batch) -> outputs``; by default ``{"logits": model(batch["input"])}``.
        criterion: the loss of each row of a view.
    """
    call = _Functional(model, forward, criterion)
    candidates = columns_of(on_device(rows, next(iter(batch.values())).device))
    with torch.enable_grad():
        start = {name: values.requires_grad_() for name, values in call.parameters.items()}
        mean = call(start, batch).mean()
        gradients = torch.autograd.grad(mean, list(start.values()), allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        step = {name: w - lr * g for (name, w), g in zip(start.items(), gradients, strict=True)}
        return call(step, candidates) - call(start, candidates)


class _Functional:
    """The criterion as a function of the parameters; buffers are copies, so that nothing is written to the model."""

    def __init__(self, model: nn.Module, forward: Forward | None, criterion: Criterion) -> None:
        self._module = _WithForward(model, forward or logits_of_input)
        self._criterion = criterion
        self.learned = {name: p for name, p in self._module.named_parameters() if p.requires_grad}
        self.parameters = {name: p.detach() for name, p in self.learned.items()}
        self._buffers = {name: values.clone() for name, values in self._module.named_buffers()}
        if not self.parameters:
            raise ValueError("model has no parameters that require a gradient; expected at least one")

    def __call__(self, parameters: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> Tensor:
        instead = {**parameters, **self._buffers}
        outputs = functional_call(self._module, instead, (rows,)) if instead else self._module(rows)
        return self._criterion(View(rows, outputs))


class _WithForward(nn.Module):
    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model = model
        self._forward = forward

    def forward(self, rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return self._forward(self.model, rows)


def _factors(call: _Functional, rows: Mapping[str, Tensor]) -> tuple[list[Gradients], list[str]]:
    """Gradients in factors, where that is possible, and the names of the other parameters."""
    parameters = call.learned
    # The first row comes twice. Its copy does not count in the loss, so that all gradients in its place are 0, unless a
    # layer has something else than rows along its first axis, or mixes them.
    doubled = {name: torch.cat([values[:1], values]) for name, values in rows.items()}
    n = batch_size(doubled, "rows")
    with torch.enable_grad(), LinearRecorder(parameters.values()) as recorder:
        losses = call({}, doubled)
    if losses.shape != (n,):
        raise ValueError(f"criterion gave shape {tuple(losses.shape)} for {n} rows; expected one loss per row")
    if not losses.requires_grad:
        return [], list(parameters)
    layers = [layer for layer in recorder.layers() if layer.input.dim() > 1 and len(layer.input) == n]
    factored = {id(parameter) for layer in layers for parameter in (layer.weight, layer.bias)}
    others = [name for name, values in parameters.items() if id(values) not in factored]
    counts = torch.ones_like(losses)
    counts[0] = 0
    wanted = [layer.output for layer in layers] + [parameters[name] for name in others]
    found = torch.autograd.grad(losses, wanted, counts, allow_unused=True)
    reached = [(layer, errors) for layer, errors in zip(layers, found, strict=False) if errors is not None]
    if not reached or torch.cat([errors[0].flatten() for _, errors in reached]).any():
        return [], list(parameters)
    watched = {id(values) for values in parameters.values()}
    factors: list[Gradients] = [
        LinearGradients(
            layer.unfold(layer.input)[1:],
            errors.movedim(layer.channels, -1)[1:],
            weight=id(layer.weight) in watched,
            bias=id(layer.bias) in watched,
        )
        for layer, errors in reached
    ]
    return factors, [name for name, gradient in zip(others, found[len(layers) :], strict=True) if gradient is not None]


def _flat(gradients: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([gradient.reshape(-1) for gradient in gradients.values()])


def _per_row(
    summary: Callable[[dict[str, Tensor]], Tensor],
    call: _Functional,
    rows: Mapping[str, Tensor] | Rows,
    chunk_size: int | None = None,
    names: Collection[str] | None = None,
) -> Tensor:
    """``summary`` of each row's gradients in the parameters ``names``; all of them if None."""
    parameters = {name: call.parameters[name] for name in names or call.parameters}

    def loss_of_one(parameters: dict[str, Tensor], row: dict[str, Tensor]) -> Tensor:
        return call(parameters, {name: values.unsqueeze(0) for name, values in row.items()}).sum()

    def of_one(row: dict[str, Tensor]) -> Tensor:
        return summary(grad(loss_of_one)(parameters, row))

    result: Any = vmap(of_one, randomness="different", chunk_size=chunk_size)(dict(columns_of(rows)))
    return result.detach()  # type: ignore[no-any-return]


def _error(logits: Tensor, labels: Tensor) -> Tensor:
    """softmax less one-hot, (B, C)."""
    return logits.softmax(1).scatter_(1, labels.long().unsqueeze(1), -1, reduce="add")
