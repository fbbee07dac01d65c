"""TextEncoder: a Hugging Face encoder that turns texts into vectors."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import jagged, offsets_of
from ..core.fingerprint import fingerprint
from .data import check_texts, row_names
from .embeddings import EmbeddingCache
from .pooling import Pooling, Token, model_json
from .precision import Precision, convert


class TextEncoder(nn.Module):
    """Texts to vectors: tokens, the hidden states of a transformer, pooling.

    Args:
        body: a model of transformers that returns hidden states.
        tokenizer: its tokenizer.
        pooling: which hidden states stand for a text.
        max_length: tokens per text; what is longer is cut, with a warning.
        name: where it came from, an id on the Hub or a path.
        batch_tokens: tokens of a batch, padding included, when texts are embedded; by default what fits the cache of
            a CPU, and far more on a GPU.
    """

    def __init__(
        self,
        body: nn.Module,
        tokenizer: Any,
        pooling: Pooling,
        max_length: int,
        name: str,
        batch_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.max_length = max_length
        self.name = name
        self.batch_tokens = batch_tokens
        self.precision: Precision = "float32"
        self._weights_digest: str | None = None
        self._tuned: tuple[str, ...] = ()
        self._exact: dict[str, Tensor] = {}

    @staticmethod
    def load(
        name: str | Path,
        *,
        pooling: Token | Pooling | None = None,
        layers: Sequence[int] | None = None,
        max_length: int | None = None,
        precision: Precision = "float32",
        device: torch.device | str | None = None,
    ) -> TextEncoder:
        """An encoder from the Hub or a folder, ready to embed.

        Args:
            name: such as ``"sentence-transformers/all-MiniLM-L6-v2"``, or a path.
            pooling: by default what the model's own files ask for, otherwise the mean.
            layers: the mean of these layers instead of the last alone.
            max_length: tokens per text; by default what the model's files say.
            precision: ``"float32"``, ``"bfloat16"`` or ``"int8"`` (for inference).
            device: by default the accelerator, where there is one.

        Raises:
            ValueError: there is no such model, or an option does not fit it.
        """
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        where = str(name)
        shows = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            tokenizer = AutoTokenizer.from_pretrained(where)
            body = AutoModel.from_pretrained(where, dtype=torch.float32)
        except (OSError, ValueError) as error:
            first = str(error).strip().partition("\n")[0]
            raise ValueError(f"encoder is {where!r}, which cannot be loaded: {first}") from error
        finally:
            if shows:
                logging.enable_progress_bar()
        if getattr(body, "pooler", None) is not None:
            body.pooler = None  # a layer that is not used, and that has weights of its own to train
        pool = pooling if isinstance(pooling, Pooling) else Pooling.of_model(where)
        if isinstance(pooling, str):
            pool = replace(pool, token=pooling)
        if layers is not None:
            pool = replace(pool, layers=_checked_layers(layers, body.config.num_hidden_layers))
        longest = _longest(where, tokenizer, body.config)
        if max_length is not None and not 3 <= max_length <= longest:
            raise ValueError(f"max_length is {max_length}; expected 3 to {longest} tokens, which {where} can take")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if device is None:
            device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
        encoder = TextEncoder(body.eval(), tokenizer, pool, max_length or _asked_length(where, longest), where)
        encoder.set_precision(precision)
        return encoder.to(device)

    # -- what it is -----------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(tensor.device for tensor in (*self.body.parameters(), *self.body.buffers()))

    @property
    def dim(self) -> int:
        """Numbers per hidden state: a vector has as many, or twice as many, see `Pooling.width`."""
        return int(self.body.config.hidden_size)  # type: ignore[union-attr,arg-type]

    def fingerprint(self) -> str:
        """A checksum of weights, tokenizer, pooling and max length: equal if and only if the embeddings are, up to
        rounding and precision."""
        if self._weights_digest is None:
            self._weights_digest = _digest(self.body, self.tokenizer)
        return hashlib.sha256(f"{self._weights_digest} {self.pooling} {self.max_length}".encode()).hexdigest()[:32]

    def set_precision(self, precision: Precision) -> None:
        """Computes in another precision from now on.

        Raises:
            ValueError: an unknown precision, or one that was given up before.
        """
        if precision == self.precision:
            return
        if self.precision != "float32":
            raise ValueError(f"precision is {precision!r}, but the encoder is in {self.precision} already")
        self.fingerprint()  # of the weights as they are, before they are rounded
        self._exact = self.tuned_weights()
        convert(self.body, precision)
        self.precision = precision

    def weights_changed(self, names: Iterable[str]) -> None:
        """To be called after training: which weights of the body are no longer those that were loaded."""
        self._tuned = tuple(sorted({*self._tuned, *names}))
        self._weights_digest = None

    def tuned_weights(self) -> dict[str, Tensor]:
        """The weights that were fine-tuned, by name, in float32, to be saved; none of an encoder as it was loaded."""
        if self.precision != "float32":
            return self._exact
        state = self.body.state_dict()
        return {name: state[name] for name in self._tuned}

    def set_tuned_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Puts back what `tuned_weights` gave.

        Raises:
            ValueError: weights of another model.
        """
        state = self.body.state_dict()
        for name, values in weights.items():
            if name not in state or state[name].shape != values.shape:
                raise ValueError(f"weights has {name!r} of shape {tuple(values.shape)}, which {self.name} has not")
        self.body.load_state_dict(dict(weights), strict=False)
        self.weights_changed(weights)

    def description(self) -> dict[str, Any]:
        """What `of_description` needs to load the same encoder, JSON-able."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint(),
            "pooling": asdict(self.pooling),
            "max_length": self.max_length,
        }

    @staticmethod
    def of_description(
        described: Mapping[str, Any], name: str | Path | None = None, device: torch.device | str | None = None
    ) -> TextEncoder:
        """The encoder that gave a `description`, without what was fine-tuned.

        Args:
            described: the description.
            name: where it is now, if it has moved.
            device: by default the accelerator, where there is one.

        Raises:
            ValueError: it cannot be loaded.
        """
        lists = {name: tuple(value) for name, value in described["pooling"].items() if isinstance(value, list | tuple)}
        pooling = Pooling(**{**described["pooling"], **lists})
        where = described["name"] if name is None else name
        return TextEncoder.load(where, pooling=pooling, max_length=described["max_length"], device=device)

    def clone(self) -> TextEncoder:
        """A copy to fine-tune; the tokenizer is shared."""
        body = copy.deepcopy(self.body)
        twin = TextEncoder(body, self.tokenizer, self.pooling, self.max_length, self.name, self.batch_tokens)
        twin.precision, twin._weights_digest = self.precision, self._weights_digest
        twin._tuned, twin._exact = self._tuned, self._exact
        return twin

    # -- texts to vectors -----------------------------------------------------------------------------------------

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text, special tokens included, cut to `max_length`."""
        check_texts(texts, "texts")
        if not len(texts):
            return []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ids: list[list[int]] = self.tokenizer(
                list(texts),
                truncation=True,
                max_length=self.max_length,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]
        nothing = [row for row, found in enumerate(ids) if not found]
        if nothing:
            raise ValueError(f"texts has nothing that the tokenizer of {self.name} knows in {row_names(nothing)}")
        return ids

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors (B, D) of token ids in the jagged layout, with gradients: for training."""
        lengths = offsets_of(ids).diff()
        # without a size it may pad to the length of all rows together
        room = (len(lengths), int(lengths.max()))
        padded = ids.to_padded_tensor(float(self.tokenizer.pad_token_id), output_size=room).long()
        return self._pooled(padded, lengths)

    def embed(self, texts: Sequence[str], cache: str | Path | None = None) -> Tensor:
        """Vectors (N, D) of texts, float32 on the CPU, without gradients.

        Texts are sorted by length and embedded in batches of `batch_tokens` tokens, so that little is padding.

        Args:
            texts: N texts, none of them empty.
            cache: a folder where embeddings are kept, see `EmbeddingCache`.

        Raises:
            ValueError: an empty text.
        """
        check_texts(texts, "texts")
        if not len(texts):
            return torch.empty(0, self.pooling.width(self.dim))
        if cache is None:
            return self._embed(texts)
        return EmbeddingCache(cache, f"{self.fingerprint()} {self.precision}")(texts, self._embed)

    def _embed(self, texts: Sequence[str]) -> Tensor:
        ids = self.tokens(texts)
        found: Tensor | None = None
        room = self.batch_tokens or (512 if self.device.type == "cpu" else 65536)
        training = self.body.training
        self.body.eval()
        try:
            with torch.inference_mode():
                for rows in _by_length(ids, room):
                    padded, lengths = self._padded([ids[row] for row in rows])
                    vectors = self._pooled(padded, lengths).float()
                    if found is None:
                        found = vectors.new_empty(len(ids), vectors.shape[1])
                    found[rows] = vectors
        finally:
            self.body.train(training)
        assert found is not None
        cut = sum(len(row) == self.max_length for row in ids)
        if cut:
            warnings.warn(
                f"{cut} of {len(ids)} texts have {self.max_length} tokens or more and were cut; see max_length",
                stacklevel=4,
            )
        return found.cpu().clone()  # a plain tensor: those of inference mode cannot be trained on

    def _padded(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, ids))
        pad = self.tokenizer.pad_token_id
        padded = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in ids])
        lengths = torch.tensor([len(row) for row in ids])
        return padded.to(self.device, non_blocking=True), lengths.to(self.device, non_blocking=True)

    def _pooled(self, ids: Tensor, lengths: Tensor) -> Tensor:
        mask = None
        # on a GPU a mask costs less than waiting to see whether it is needed
        if ids.is_cuda or int(lengths.min()) < ids.shape[1]:
            mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
        deep = self.pooling.deep
        outputs = self.body(input_ids=ids, attention_mask=mask, output_hidden_states=deep)
        return self.pooling(outputs.hidden_states if deep else [outputs.last_hidden_state], mask)


def token_rows(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """Token ids of texts in the jagged layout, int64, for a column of a memory or a batch; their mask is their length.

    Raises:
        ValueError: an empty text.
    """
    return jagged(encoder.tokens(texts))


def _by_length(ids: Sequence[Sequence[int]], room: int) -> Iterator[list[int]]:
    """Rows in batches of at most ``room`` tokens, the longest first: what does not fit in memory shows at once."""
    batch: list[int] = []
    for row in sorted(range(len(ids)), key=lambda row: -len(ids[row])):
        if batch and (len(batch) + 1) * len(ids[batch[0]]) > room:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _digest(body: nn.Module, tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return fingerprint(body, repr(sorted(tokenizer.get_vocab().items())))
    # the tokenizer remembers how it truncated last, which is not part of what it is
    backend.no_truncation()
    backend.no_padding()
    return fingerprint(body, backend.to_str())


def _checked_layers(layers: Sequence[int], depth: int) -> tuple[int, ...]:
    if not len(layers) or not all(-depth - 1 <= layer <= depth for layer in layers):
        raise ValueError(f"layers is {list(layers)}; expected numbers of layers from 0 to {depth}")
    return tuple(layers)


def _longest(name: str, tokenizer: Any, config: Any) -> int:
    """Tokens that the model can take."""
    known = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    return min((int(length) for length in known if length and length < 10**6), default=512)


def _asked_length(name: str, longest: int) -> int:
    asked = (model_json(name, "sentence_bert_config.json") or {}).get("max_seq_length")
    return min(asked or longest, longest)
