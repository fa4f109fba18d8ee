"""Heads that are rows of the output layer: a language model answers with a token, and its logit is the score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from codescaler.checkpoint.families import FAMILIES
from codescaler.checkpoint.heads import Tokens
from codescaler.checkpoint.tensor_files import TensorSource
from codescaler.errors import InvalidInput, MissingTensor, ShapeMismatch, UnsupportedModel
from codescaler.io.json import Fields
from codescaler.text.chat import load_chat
from codescaler.types import ModelConfig

_STORED = ("lm_head.weight", "language_model.lm_head.weight", "output.weight")  # of an output layer


@dataclass(frozen=True)
class VocabularyRow:
    """A row of the output layer, or the difference of two: the last one minus the first."""

    vocabulary: TensorSource
    rows: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, *self.vocabulary.shape[1:])

    @property
    def dtype(self) -> str:
        return "float32"

    @property
    def origin(self) -> str:
        return self.vocabulary.origin

    def read(self) -> torch.Tensor:
        rows = self.vocabulary.read()[list(self.rows)].float()
        return rows if len(rows) == 1 else rows[1:] - rows[:1]


def find_output_layer(
    stored: Mapping[str, TensorSource], embedding: TensorSource | None, fields: Fields, config: ModelConfig
) -> TensorSource | None:
    """Returns the weight of the output layer, which may be the embedding; None if there is none."""
    is_tied = fields.read_flag("tie_word_embeddings") or (
        fields.values.get("tie_word_embeddings") is None and FAMILIES[config.family].is_tied
    )
    own = next((stored[name] for name in _STORED if name in stored), None)
    return embedding if own is None and is_tied else own


def read_vocabulary_head(
    tokens: Tokens,
    stored: Mapping[str, TensorSource],
    embedding: TensorSource | None,
    fields: Fields,
    config: ModelConfig,
    folders: Sequence[Path],
) -> VocabularyRow:
    """Returns the head that `tokens` name: their rows of the output layer, which may be the embedding.

    Raises:
        InvalidInput: a token is not in the vocabulary. MissingTensor: there is no output layer.
        UnsupportedModel: logits are capped, so that a difference of rows is not a difference of logits.
    """
    if config.logit_softcap is not None:
        raise UnsupportedModel(
            f"{fields.where}: final_logit_softcapping is {config.logit_softcap}; scores by rows of the output layer "
            "would not be the model's logits. Score this one with transformers."
        )
    vocabulary = find_output_layer(stored, embedding, fields, config)
    if vocabulary is None:
        raise MissingTensor(f"{fields.where}: the model has no lm_head.weight, and its embedding is not tied to it.")
    if len(vocabulary.shape) != 2 or not vocabulary.shape[0]:
        raise ShapeMismatch(f"{vocabulary.origin} has shape {vocabulary.shape}; a row for each token is wanted.")
    return VocabularyRow(vocabulary, tuple(_find_row(token, vocabulary, folders) for token in tokens))


def _find_row(token: str | int, vocabulary: TensorSource, folders: Sequence[Path]) -> int:
    row = load_chat(*folders).tokenizer.token_to_id(token) if isinstance(token, str) else token
    if row is None or not 0 <= row < vocabulary.shape[0]:
        raise InvalidInput(
            f"classifier_from_token: {str(token)[:80]!r} is none of the {vocabulary.shape[0]} tokens of "
            f"{' and '.join(map(str, folders))}; give a token as tokenizer.json has it, or its id"
        )
    return row
