"""Completions of a language model in a folder, by transformers. Knows no server; runs no code of the folder's."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from codescaler.data.sampling import Completion, Request, Sampling
from codescaler.errors import InvalidInput, UnsupportedModel
from codescaler.resumable import digest_of_files


class LocalModel:
    """A causal language model with a chat template, on the first GPU where there is one.

    Of the folder's own generation settings only the tokens that end an answer are used. A batch is of one task, at most
    `batch_size` of its completions: no padding, and the same batches in a resumed run.

    Raises: InvalidInput if transformers is missing or the folder is no model; UnsupportedModel without a template.
    """

    def __init__(self, folder: Path, sampling: Sampling, *, batch_size: int = 16) -> None:
        if batch_size < 1:
            raise InvalidInput(f"batch size {batch_size}; give a whole number of at least 1")
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
        except ImportError as error:
            raise InvalidInput(
                f"a local model needs transformers ({error}); run: pip install transformers, or give --endpoint"
            ) from error
        if not folder.is_dir():
            raise InvalidInput(f"{folder} is no folder; give one of a language model, or --endpoint URL")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype="auto", local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise InvalidInput(f"{folder} is no language model that transformers loads ({error})") from error
        if self._tokenizer.chat_template is None:
            raise UnsupportedModel(f"{folder} has no chat template; give an instruction-tuned model")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model: Any = model.to(self._device).eval()
        self._sampling, self._batch_size = sampling, batch_size
        own = self._model.generation_config
        ends = own.eos_token_id if own.eos_token_id is not None else self._tokenizer.eos_token_id
        self._ends = [ends] if isinstance(ends, int) else list(ends or [])
        self._config = GenerationConfig(
            do_sample=False,
            max_new_tokens=sampling.max_tokens,
            eos_token_id=self._ends or None,
            pad_token_id=self._ends[0] if self._ends else 0,
        )
        self._model.generation_config = self._config  # `generate` fills what is unset from the model's own
        kinds = ("*.safetensors", "*.json", "*.jinja")
        self.identity = digest_of_files(sorted(path for kind in kinds for path in folder.glob(kind)))

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        """Yields each request's completions."""
        for request in requests:
            starts = range(0, len(request.seeds), self._batch_size)
            batches = (request.seeds[start : start + self._batch_size] for start in starts)
            yield [completion for seeds in batches for completion in self._batch(request.prompt, seeds)]

    def _batch(self, prompt: str, seeds: Sequence[int]) -> list[Completion]:
        messages = [{"role": "user", "content": prompt}]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        encoded = self._tokenizer(text, add_special_tokens=False, return_tensors="pt")
        ids = encoded["input_ids"].to(self._device).expand(len(seeds), -1)
        draws = [] if self._sampling.temperature == 0 else [_Draws(self._sampling, seeds)]
        with torch.inference_mode():
            answers = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=self._config,
                logits_processor=draws,
            )
        return [self._completion(answer[ids.shape[1] :].tolist()) for answer in answers]

    def _completion(self, ids: list[int]) -> Completion:
        end = next((index for index, token in enumerate(ids) if token in self._ends), None)
        text = self._tokenizer.decode(ids[:end], skip_special_tokens=True)
        return Completion(text, "length" if end is None else "stop")


class _Draws:
    """Makes greedy search sample, each row from a generator of its own.

    The arg-max of logits / temperature - log E, with E of the exponential distribution, is a draw from the softmax
    (the Gumbel-max trick). So a completion depends on its seed, not on what is sampled beside it.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int]) -> None:
        self._temperature, self._top_p = sampling.temperature, sampling.top_p
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, _input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logits = scores.float() / self._temperature
        if self._top_p < 1:
            sorted_logits, order = logits.sort(dim=-1, descending=True)
            before = sorted_logits.softmax(dim=-1).cumsum(dim=-1).roll(1, dims=-1)
            before[:, 0] = 0.0  # the likeliest token always stays
            is_out = (before >= self._top_p).scatter(-1, order, before >= self._top_p)
            logits = logits.masked_fill(is_out, -torch.inf)
        noise = [torch.empty(logits.shape[-1]).exponential_(generator=generator) for generator in self._generators]
        return logits - torch.stack(noise).log().to(logits.device)
