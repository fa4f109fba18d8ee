"""`AdaptiveRanker`: finds the best candidate of a problem without a full score of each.

Two sources of early scores have one rule and one certificate: exits of the model itself, and a small model before it (a
cascade). Survivors have the bits of a full run. When a stream leaves what the certificate was counted on, all
candidates are scored.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from codescaler.checkpoint.tensor_files import open_safetensors
from codescaler.engine.certificate import Certificate, DriftMonitor, describe_problem, read_certificate
from codescaler.engine.exits import DROPPED, Exits, Rule, require_layers
from codescaler.engine.ranking import list_contenders, name_candidates, read_candidates, require_finite
from codescaler.engine.scheduler import Float32
from codescaler.errors import BackendUnavailable, InvalidInput, MissingTensor, WeightsError
from codescaler.io.files import find_file
from codescaler.io.resumable import compute_digest
from codescaler.text.program import Message, Pair, make_conversation
from codescaler.types import RankedCandidate

if TYPE_CHECKING:
    from codescaler.engine.engine import Engine

EXITS = "exits"
EXITS_FILE, HEADS_FILE = "exits.json", "exits.safetensors"

_log = logging.getLogger(__name__)


class EarlyScores(Protocol):
    """Where scores come from before the last one."""

    @property
    def layers(self) -> tuple[int, ...]:
        """How many layers of the model a candidate has gone through at each stage."""
        ...

    def compute(self, pairs: Sequence[Pair], names: Sequence[str], rule: Rule | None) -> Float32:
        """Returns the scores of one problem's candidates at each stage, then the model's. Shape: [N, stages + 1]."""
        ...

    def describe(self) -> dict[str, Any]:
        """Returns what names it in a file of a certificate."""
        ...


class ExitScores:
    """Scores at exits of the model: one forward, whose tree is cut between layers. It needs no second model."""

    def __init__(self, engine: "Engine", layers: Sequence[int], weights: torch.Tensor, biases: torch.Tensor) -> None:
        """Shapes: weights [exits, D], biases [exits]."""
        self.layers = require_layers(layers, engine.config.num_layers)
        self._engine = engine
        device = torch.device(engine.device)
        self._weights, self._biases = weights.float().contiguous(), biases.float().contiguous()
        self._heads = tuple(
            (weight[None].to(device), bias[None].to(device))
            for weight, bias in zip(self._weights, self._biases, strict=True)
        )
        self._exits: dict[Rule | None, Exits] = {}  # one for all calls with a rule, so that they share forwards

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {"weights": self._weights, "biases": self._biases}

    def describe(self) -> dict[str, Any]:
        digest = compute_digest([tensor.numpy().tobytes() for tensor in self.tensors.values()])
        return {"layers": list(self.layers), "exits_digest": digest}

    def compute(self, pairs: Sequence[Pair], names: Sequence[str], rule: Rule | None) -> Float32:
        exits = self._exits.setdefault(rule, Exits(self.layers, self._heads, rule))
        return self._engine.submit_stages(pairs, exits, names).result()


class CascadeScores:
    """Scores of a small model, before the large one computes anything."""

    layers = (0,)

    def __init__(self, engine: "Engine", small: "Engine") -> None:
        self._engine, self.small = engine, small

    def describe(self) -> dict[str, Any]:
        return {"small": describe_engine(self.small)}

    def compute(self, pairs: Sequence[Pair], names: Sequence[str], rule: Rule | None) -> Float32:
        values = np.full((len(pairs), 2), DROPPED, dtype=np.float32)
        values[:, 0] = _read_scores(self.small, pairs, names)
        kept = np.ones(len(pairs), np.bool_) if rule is None else rule.find_survivors(values[:, 0], 0)
        left = np.flatnonzero(kept).tolist()
        values[left, 1] = _read_scores(self._engine, [pairs[i] for i in left], [names[i] for i in left])
        return values


def _read_scores(engine: "Engine", pairs: Sequence[Pair], names: Sequence[str]) -> Float32:
    """Scores of pairs, of which none is `DROPPED`: an infinite one is NaN."""
    values = np.array([*engine.score_stream(pairs, names)], dtype=np.float32)
    return np.where(np.isfinite(values), values, np.float32(np.nan))


def describe_engine(engine: "Engine") -> dict[str, Any]:
    """Returns what an early score and a margin depend on, as JSON holds it."""
    return {
        "head_digest": engine.head_digest,
        **engine.text.describe(are_programs=True),
        **{name: getattr(engine, name) for name in ("dtype", "quantization", "pooling", "truncation", "max_length")},
        "num_layers": engine.config.num_layers,
        "packed_bits": sorted({*engine.config.packed_bits.values()}),
    }


def require_same_bits(engine: "Engine") -> None:
    """Refuses an engine whose scores depend on the batch: a survivor would have another score than in a full ranking.

    Raises: BackendUnavailable.
    """
    if not engine.has_same_bits:
        raise BackendUnavailable(
            f"an adaptive ranking needs scores that have the same bits in any batch; on {engine.device} give "
            "deterministic=True, --deterministic"
        )


def name_cascade_file(small: "Engine") -> str:
    """Returns the name that the certificate of a cascade has in the folder of the large model."""
    return f"cascade-{small.head_digest}.json"


class AdaptiveRanker:
    """Ranks by a certificate. Several threads may call it. `has_drifted` says that it scores in full from now on."""

    def __init__(self, scores: EarlyScores, certificate: Certificate) -> None:
        self.scores = scores
        self.certificate = certificate
        self.small = scores.small if isinstance(scores, CascadeScores) else None
        self._monitor = DriftMonitor(certificate.reference)
        self._has_told = False

    @property
    def has_drifted(self) -> bool:
        return self._monitor.has_drifted

    def rank(
        self,
        rank_in_full: Callable[[], list[RankedCandidate]],
        problem: str | Sequence[Message],
        candidates: Sequence[str],
        extract: bool | str,
        top_k: int | None,
        language: str,
        names: Sequence[str] | None,
        system: str | None,
        asked_first: bool,
    ) -> list[RankedCandidate]:
        """Returns what `Engine.rerank` does with `adaptive`.

        Problems that the certificate says nothing of go to `rank_in_full`.
        """
        self.require_top_k(top_k)
        if language != "python":
            raise InvalidInput(f"language={language!r}, and exits are made of Python programs; rank without adaptive")
        if asked_first != self.certificate.asked_first:
            raise InvalidInput(
                f"asked_first={asked_first}, and the exits were made with {self.certificate.asked_first}; give that"
            )
        unscored = read_candidates(problem, candidates, extract, top_k, language, asked_first)
        contenders = list_contenders(unscored)
        first_of: dict[str | None, RankedCandidate] = {}
        for candidate in contenders:
            first_of.setdefault(candidate.code, candidate)
        distinct = [*first_of.values()]
        if self.has_drifted or not self._is_counted(len(distinct)):
            return rank_in_full()
        named = name_candidates(unscored, names)
        called = [named[candidate.index] for candidate in distinct]
        pairs = [make_conversation(problem, candidate.code or "", system) for candidate in distinct]
        values = self.scores.compute(pairs, called, self.certificate.rule)
        place_of = {code: place for place, code in enumerate(first_of)}
        rows = [place_of[candidate.code] for candidate in contenders]
        scored = self._read_values(values[rows], contenders, [called[row] for row in rows])
        self._monitor.add(describe_problem(values))
        ranked = [
            scored.get(each.index, each if each.code is None else replace(each, dropped_at=0)) for each in unscored
        ]
        return sorted(ranked, key=lambda candidate: candidate.place)[:top_k]

    def require_top_k(self, top_k: int | None) -> None:
        """Refuses to show more programs than the certificate is of; None is all, of which it says what it says.

        Raises: InvalidInput.
        """
        if self.certificate.promise == "first" and top_k is not None and top_k > self.certificate.rule.top_k:
            raise InvalidInput(
                f"top_k={top_k}, and the exits were made for {self.certificate.rule.top_k}; make them anew by "
                f"`codescaler fit-exits --top-k {top_k}`, or leave adaptive out"
            )

    def _is_counted(self, num_distinct: int) -> bool:
        """Whether problems with so many programs were among those counted. Warns once of more."""
        fewest, most = self.certificate.num_candidates
        if num_distinct > most and not self._has_told:
            self._has_told = True
            _log.warning(
                "a problem has %d programs that may be first, and those that the certificate counted had at most %d: "
                "such problems are scored in full; make exits of such by `codescaler fit-exits`", num_distinct, most
            )  # fmt: skip
        return max(fewest, self.certificate.rule.top_k + 1) <= num_distinct <= most

    def _read_values(
        self, values: Float32, contenders: Sequence[RankedCandidate], names: Sequence[str]
    ) -> dict[int, RankedCandidate]:
        """Returns the contenders with their scores, or where they were dropped."""
        layers, last = self.scores.layers, values[:, -1]
        survived = np.flatnonzero(last != DROPPED).tolist()
        require_finite(last[survived].tolist(), [names[place] for place in survived])
        return {
            candidate.index: replace(candidate, score=float(row[-1]))
            if row[-1] != DROPPED
            else replace(candidate, dropped_at=layers[int((row != DROPPED).sum()) - 1])
            for candidate, row in zip(contenders, values, strict=True)
        }


def open_ranker(engine: "Engine", adaptive: str | Path, load: Callable[[str | Path], "Engine"]) -> AdaptiveRanker:
    """Reads the certificate in the model's folder: of its exits, or of the cascade from a small model.

    Raises: InvalidInput if there is none; as `read_certificate` and `require_same_bits`.
    """
    require_same_bits(engine)
    if adaptive == EXITS:
        path, scores = _require_file(engine.folder, EXITS_FILE, "GROUPS"), None
    else:
        small = load(adaptive)
        path = _require_file(engine.folder, name_cascade_file(small), f"GROUPS --cascade {adaptive}")
        scores = CascadeScores(engine, small)
    certificate, record = read_certificate(path, describe_engine(engine))
    early: EarlyScores = _read_exit_scores(engine, path, record) if scores is None else scores
    advice = "make it anew by `codescaler fit-exits`"
    for key, value in early.describe().items():
        if record.values.get(key) != value:
            raise WeightsError(
                f"{path} is of other {key}: {record.values.get(key)!r:.200}, not {value!r:.200}; {advice}"
            )
    if len(certificate.rule.margins) != len(early.layers):
        raise WeightsError(f"{path} has {len(certificate.rule.margins)} margins, not {len(early.layers)}; {advice}")
    return AdaptiveRanker(early, certificate)


def _require_file(folder: Path, name: str, arguments: str) -> Path:
    path = find_file([folder], name)
    if path is None:
        raise InvalidInput(
            f"{folder} has no {name}, which says what an adaptive ranking may drop; make it by `codescaler fit-exits "
            f"{folder} {arguments}`"
        )
    return path


def _read_exit_scores(engine: "Engine", path: Path, record: Any) -> ExitScores:
    try:
        tensors = open_safetensors(path.with_name(HEADS_FILE))
    except MissingTensor as error:
        raise MissingTensor(
            f"{path.with_name(HEADS_FILE)} is not there, and {path.name} is of it; make both anew by "
            "`codescaler fit-exits`"
        ) from error
    layers = [int(number) for number in record.read_numbers("layers")]
    wanted = {"weights": (len(layers), engine.config.hidden_size), "biases": (len(layers),)}
    for name, shape in wanted.items():
        found = tensors[name].shape if name in tensors else None
        if found != shape or tensors[name].dtype != "float32":
            raise WeightsError(f"{path.with_name(HEADS_FILE)} has {name} of shape {found}, not float32 {shape}")
    return ExitScores(engine, layers, *(tensors[name].read().clone() for name in wanted))
