"""Completions of a language model in a folder, by transformers. Knows no server; runs no code of the folder's.

transformers computes layers; here is what its `generate` does not do: a row of the batch that has ended is given to the
next completion at once, whatever problem that is of (continuous batching), and each draws from a generator of its own.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from codescaler.data.sample.sampling import Completion, Request, Sampling
from codescaler.errors import InvalidInput, UnsupportedModel
from codescaler.io.resumable import compute_file_digest
from codescaler.ops import Backend, LinearWeights, select_backend

_GROWTH = 256  # columns of the cache


def compute_model_digest(folder: Path) -> str:
    """Names the model of a folder by its weights and settings, as samples name it. Reads all of them."""
    kinds = ("*.safetensors", "*.json", "*.jinja")
    return compute_file_digest(sorted(path for kind in kinds for path in folder.glob(kind)))


class LocalModel:
    """A causal language model with a chat template, on the first GPU where there is one.

    It computes in the folder's dtype on GPUs; in float32 on CPUs, but for linear layers, logits among them, where the
    CPU is faster in bfloat16. Of the folder's own generation settings only the tokens that end an answer are used.
    `batch_size` completions are drawn at a time. What one draws depends on its seed and, but for rounding in attention
    (1e-7 in float32, which may turn a bfloat16 over), not on the others.

    Raises:
        InvalidInput: transformers is missing, or the folder is no model that it computes by SDPA.
        UnsupportedModel: there is no chat template, or a layer does not attend to all that came before.
    """

    def __init__(self, folder: Path, sampling: Sampling, *, batch_size: int = 32) -> None:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise InvalidInput(
                f"a local model needs transformers ({error}); run: pip install transformers, or give --endpoint"
            ) from error
        if not folder.is_dir():
            raise InvalidInput(
                f"{folder} is no folder; give one of a language model, such as one by `codescaler download`, or "
                "--endpoint URL"
            )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype="auto" if device.type == "cuda" else torch.float32,
                attn_implementation="sdpa",  # the one that leaves out what a mask of booleans says
                local_files_only=True,
                use_safetensors=True,
            )
        except (OSError, ValueError, KeyError) as error:
            raise InvalidInput(f"{folder} is no language model that transformers loads ({error})") from error
        if self._tokenizer.chat_template is None:
            raise UnsupportedModel(f"{folder} has no chat template; give an instruction-tuned model")
        self._sampler = TokenSampler(model.to(device), self._tokenizer, sampling, batch_size=batch_size)
        self.identity = compute_model_digest(folder)

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        """Yields each request's completions."""
        prompts = (
            (encode_chat(self._tokenizer, [{"role": "user", "content": request.prompt}]), request.seeds)
            for request in requests
        )
        for draws in self._sampler.draw(prompts):
            yield [Completion(self._decode(draw), draw.finish) for draw in draws]

    def _decode(self, draw: "DrawnTokens") -> str:
        tokens = draw.tokens[:-1] if draw.finish == "stop" else draw.tokens
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


def encode_chat(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Returns the token ids of a conversation that the model answers next, in its chat template."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class DrawnTokens:
    """The tokens of a completion, the one that ended it among them if `finish` is "stop", and not "length"."""

    tokens: list[int]
    finish: str


class TokenSampler:
    """Draws completions of prompts that are token ids, by continuous batching.

    `model` is transformers', with SDPA. On a CPU its linear layers are replaced by packed ones: give a copy of a model
    that is trained. `tokenizer` says which tokens end a completion where the model's generation settings do not.

    Raises:
        InvalidInput: `batch_size` is below 1.
        UnsupportedModel: the model's attention is another, or a layer does not attend to all that came before.
    """

    def __init__(self, model: Any, tokenizer: Any, sampling: Sampling, *, batch_size: int = 32) -> None:
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        if batch_size < 1:
            raise InvalidInput(f"batch size {batch_size}; give a whole number of at least 1")
        if model.config._attn_implementation != "sdpa":  # what it makes of the mask is known
            raise UnsupportedModel(
                f"this {type(model).__name__} has {model.config._attn_implementation!r} attention; load it with sdpa"
            )
        if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=model.config).layers):
            raise UnsupportedModel(
                f"this {type(model).__name__} has layers with windows or states; serve it, and give --endpoint URL"
            )
        self._model, self._device = model.eval(), model.device
        if self._device.type == "cpu":
            _pack_linears(self._model, select_backend("auto", "cpu"))
        self._sampling, self._batch_size = sampling, batch_size
        own = model.generation_config
        ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
        self._ends = {ends} if isinstance(ends, int) else set(ends or ())

    @torch.inference_mode()
    def draw(self, prompts: Iterable[tuple[Sequence[int], Sequence[int]]]) -> Iterator[list[DrawnTokens]]:
        """Yields the completions of each prompt. A prompt is its token ids, and a seed for each completion."""
        cache = _RowCache(self._batch_size, self._device)
        rows: list[_Draw | None] = [None] * self._batch_size
        started: deque[list[_Draw]] = deque()  # by prompt; the first is the next to yield
        waiting: deque[_Draw] = deque()
        source = iter(prompts)
        while True:
            for row, draw in enumerate(rows):
                while draw is None or draw.finish is not None:
                    if not waiting:
                        prompt = next(source, None)
                        if prompt is None:
                            rows[row] = None
                            cache.clear(row)
                            break
                        waiting.extend(group := self._prefill(*prompt))
                        started.append(group)
                        continue
                    draw = rows[row] = waiting.popleft()
                    if draw.finish is None:
                        cache.fill(row, draw.prompt)
                    draw.prompt = ()
            while started and all(draw.finish is not None for draw in started[0]):
                yield [draw.make_drawn() for draw in started.popleft()]
            if not started:
                return
            running = [row for row, draw in enumerate(rows) if draw is not None]
            if 2 * len(running) <= len(rows):  # the last ones, which may be long
                rows = [rows[row] for row in running]
                cache.keep(running)
            self._step(rows, cache)

    def _prefill(self, tokens: Sequence[int], seeds: Sequence[int]) -> "list[_Draw]":
        """A prompt is computed once; gives its completions, each with a first token."""
        from transformers import DynamicCache

        prompt = DynamicCache()
        ids = torch.tensor([tokens], device=self._device)
        logits = self._model(input_ids=ids, past_key_values=prompt, logits_to_keep=1).logits[0]
        layers = [(layer.keys[0], layer.values[0]) for layer in prompt.layers]
        draws = [_Draw(layers, torch.Generator().manual_seed(seed)) for seed in seeds]
        self._draw(draws, logits.expand(len(draws), -1))
        return draws

    def _step(self, rows: "Sequence[_Draw | None]", cache: "_RowCache") -> None:
        """One more token of every row. Empty rows compute what nobody reads."""
        running = [(row, draw) for row, draw in enumerate(rows) if draw is not None]
        ids = [0 if draw is None else draw.tokens[-1] for draw in rows]
        seen = torch.arange(cache.num_columns, device=self._device) <= cache.positions[:, None]
        output = self._model(
            input_ids=torch.tensor(ids, device=self._device)[:, None],
            position_ids=cache.positions[:, None],
            attention_mask=seen[:, None, None],
            past_key_values=cache,
            use_cache=True,
        )
        cache.advance([row for row, _ in running])
        logits = output.logits[:, -1]
        self._draw(
            [draw for _, draw in running],
            logits if len(running) == len(rows) else logits[[row for row, _ in running]],
        )

    def _draw(self, draws: "Sequence[_Draw]", logits: Tensor) -> None:
        if self._sampling.temperature == 0:
            tokens = logits.argmax(-1)
        else:
            numbers = torch.stack([torch.rand((), generator=draw.generator, dtype=torch.float64) for draw in draws])
            tokens = draw_tokens(logits, numbers.to(logits.device), self._sampling.temperature, self._sampling.top_p)
        for draw, token in zip(draws, tokens.tolist(), strict=True):
            num_before = len(draw.tokens)
            draw.tokens.append(token)
            if token in self._ends:
                draw.finish = "stop"
            elif num_before + 1 == self._sampling.max_tokens:
                draw.finish = "length"


@dataclass(eq=False)
class _Draw:
    """A completion in the making; `prompt` are keys and values of each layer, [heads, tokens, D] each."""

    prompt: Sequence[tuple[Tensor, Tensor]]
    generator: torch.Generator
    tokens: list[int] = field(default_factory=list)
    finish: str | None = None

    def make_drawn(self) -> DrawnTokens:
        assert self.finish is not None
        return DrawnTokens(self.tokens, self.finish)


class _RowCache:
    """Keys and values of the rows of a batch, each row with a length of its own; what transformers' layers call.

    `positions` [rows] are where each row's next token goes; `num_columns` holds the longest row and that token.
    """

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self._lengths = [0] * num_rows
        self._rows = torch.arange(num_rows, device=device)
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._fit()

    def fill(self, row: int, prompt: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Begins a row anew."""
        if not self._layers:
            self._layers = [(self._make_empty(k), self._make_empty(v)) for k, v in prompt]
        length = prompt[0][0].shape[1]
        self._lengths[row] = length
        self._fit()
        for (keys, values), (k, v) in zip(self._layers, prompt, strict=True):
            keys[row, :, :length], values[row, :, :length] = k, v

    def clear(self, row: int) -> None:
        """Makes a row the shortest; what it computes from now on, nobody reads."""
        self._lengths[row] = 0
        self._fit()

    def keep(self, rows: Sequence[int]) -> None:
        """Keeps only these rows, in this order."""
        self._rows = self._rows[: len(rows)]
        self._lengths = [self._lengths[row] for row in rows]
        self._layers = [(k[rows], v[rows]) for k, v in self._layers]
        self._fit()

    def advance(self, rows: Sequence[int]) -> None:
        """Rows that got a token are longer by one."""
        for row in rows:
            self._lengths[row] += 1
        self._fit()

    def update(self, k: Tensor, v: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Adds a token to each row. Shapes: k, v [rows, heads, 1, D] -> [rows, heads, num_columns, D]."""
        keys, values = self._layers[layer]
        keys[self._rows, :, self.positions], values[self._rows, :, self.positions] = k[:, :, 0], v[:, :, 0]
        return keys[:, :, : self.num_columns], values[:, :, : self.num_columns]

    def get_seq_length(self, layer: int = 0) -> int:
        return self.num_columns

    def _make_empty(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(self._rows), x.shape[0], 0, x.shape[2])

    def _fit(self) -> None:
        self.positions = torch.tensor(self._lengths, device=self._rows.device)
        self.num_columns = max(self._lengths) + 1
        missing = self.num_columns - self._layers[0][0].shape[2] if self._layers else 0
        if missing > 0:
            pad = (0, 0, 0, -(-missing // _GROWTH) * _GROWTH)
            self._layers = [(functional.pad(k, pad), functional.pad(v, pad)) for k, v in self._layers]


def draw_tokens(logits: Tensor, numbers: Tensor, temperature: float, top_p: float) -> Tensor:
    """A token of each row: of the fewest likeliest ones that hold `top_p` of softmax(logits / temperature), by weight.

    Shapes: logits [B, V], numbers [B] uniform in [0, 1), float64 -> [B], int64.
    """
    logits = logits.float() / temperature
    total = logits.logsumexp(-1, keepdim=True)
    rows = torch.arange(len(logits), device=logits.device)
    drawn = torch.empty_like(rows)
    size = logits.shape[-1]
    # Few tokens hold the nucleus, or the token drawn if every token is in it; to sort all of them is dear. How many a
    # row needs depends on nothing but the row. Of tokens whose logits equal the last one's, others may be left out.
    for num_likeliest in (64, 1024, size):
        is_whole = num_likeliest >= size
        likeliest, tokens = logits.topk(min(num_likeliest, size), dim=-1)
        weights = (likeliest - total).double().exp()
        known = weights.where(likeliest > likeliest[:, -1:], 0.0).sum(-1)
        is_found = (known > (top_p if top_p < 1 else numbers)) | is_whole
        if top_p < 1:
            weights = weights.where(weights.cumsum(-1) - weights < top_p, 0.0)  # the likeliest always counts
        sums = weights.cumsum(-1)
        mass = sums[:, -1:] if top_p < 1 or is_whole else 1.0
        index = torch.searchsorted(sums, numbers[:, None] * mass, right=True).clamp(max=sums.shape[-1] - 1)
        drawn[rows[is_found]] = tokens.gather(-1, index)[is_found, 0]
        if is_found.all():
            break
        logits, total, numbers, rows = (x[~is_found] for x in (logits, total, numbers, rows))
    return drawn


class _PackedLinear(torch.nn.Module):
    """A linear layer in the backend's layout, and in bfloat16 where that is faster; x and result are float32."""

    def __init__(self, linear: torch.nn.Linear, backend: Backend) -> None:
        super().__init__()
        self._backend, self._dtype = backend, backend.fastest_dtype
        bias = None if linear.bias is None else linear.bias.detach().to(self._dtype)
        self._packed = backend.pack_linear(LinearWeights(linear.weight.detach().to(self._dtype), bias))

    def forward(self, x: Tensor) -> Tensor:
        y = self._backend.linear(x.flatten(0, -2).to(self._dtype), self._packed)
        return y.reshape(*x.shape[:-1], -1).to(x.dtype)


def _pack_linears(model: torch.nn.Module, backend: Backend) -> None:
    """Puts every linear layer into the engine's layout: on a batch of 64 rows twice as fast as torch's own (AVX2)."""
    for module in [module for module in model.modules() if type(module) is not torch.nn.Linear]:
        for name, child in module.named_children():
            if type(child) is torch.nn.Linear:
                setattr(module, name, _PackedLinear(child, backend))
