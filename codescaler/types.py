"""Frozen records that cross layers. Standard library only: no tensor, no array, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias, get_args

HeadKind = Literal[
    "sequence_classification",
    "token_classification",
    "value_head",
    "reward_model",
    "regression_head",
    "mlp",
    "appended_token",
    "vocabulary_rows",
    "none",
]
RopeKind = Literal["default", "linear", "llama3", "dynamic", "longrope"]
Layout = Literal["phi3", "internlm2"]
Activation = Literal["silu", "gelu_tanh"]
ActivationBits = Literal[8, 16]
Quantization = Literal["int8", "fp8"]
ExtractorName = Literal["paper", "last", "markdown", "markdown-unclosed"]
Promise = Literal["first", "order"]
ScorerName = Literal["reward", "likelihood", "likelihood_mean", "likelihood_min", "reviewer", "coder_reviewer"]
ACTIVATION_BITS: tuple[ActivationBits, ...] = (8, 16)
GROUP_SIZES = (32, 64, 128)  # inputs of a linear layer that share a scale of int4
HADAMARD_BLOCK = 64  # inputs of a linear layer that are transformed together; their number has to be a multiple


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: base `theta` and how its frequencies are rescaled.

    `linear` divides every frequency by `factor`; `llama3` divides the low ones and blends between
    `low_freq_factor` and `high_freq_factor` (wavelengths counted against `original_max_positions`). `longrope` divides
    each frequency by its own of `factors`, and multiplies cosine and sine by `table_scale`. `dynamic` is the default up
    to the model's positions. With `rotary_dims`, only so many dims of a head turn.
    """

    theta: float
    kind: RopeKind = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    factors: tuple[float, ...] = ()
    table_scale: float = 1.0
    rotary_dims: int | None = None

    @property
    def ends_at_max_positions(self) -> bool:
        """Whether a sequence of more than the model's positions would need other frequencies."""
        return self.kind in ("dynamic", "longrope")


@dataclass(frozen=True)
class HeadInput:
    """What a head reads of a sequence.

    Attributes:
        skips_pads: the score is read at the last token that is not the pad token, else at the last token.
        closes_with_eos: a text loses its last newlines, and ends with the EOS token.
        appended_id: the token that has to be the last one; None for any.
    """

    skips_pads: bool = False
    closes_with_eos: bool = False
    appended_id: int | None = None


@dataclass(frozen=True)
class QuantScheme:
    """How an int8 linear layer is quantised: its weights to 8 bits, its inputs to `bits`.

    With `has_hadamard` both went through `ops.reference.apply_hadamard` before.
    """

    bits: ActivationBits
    has_hadamard: bool
    name: ClassVar[str] = "int8"

    @staticmethod
    def of(bits: ActivationBits, num_inputs: int) -> "QuantScheme":
        """Returns what we give a layer of so many inputs: a Hadamard transform where that is possible."""
        return QuantScheme(bits, num_inputs % HADAMARD_BLOCK == 0)


@dataclass(frozen=True)
class ExpertsConfig:
    """Which layers have experts in place of one MLP, and how a token's experts are chosen and weighted.

    A token goes through the `num_chosen` of `num_experts` that its router gives the largest weights. The weights are
    divided by their sum if `has_normalised_weights`. `intermediate_size` is the width of one expert.
    """

    num_experts: int
    num_chosen: int
    intermediate_size: int
    has_normalised_weights: bool
    layers: frozenset[int]


@dataclass(frozen=True)
class Fp8Scheme:
    """How an fp8 linear layer is quantised: its weights and its inputs to e4m3, of 8 bits."""

    name: ClassVar[str] = "fp8"
    bits: ClassVar[ActivationBits] = 8
    has_hadamard: ClassVar[bool] = False


Scheme: TypeAlias = QuantScheme | Fp8Scheme


@dataclass(frozen=True)
class ModelConfig:
    """What the decoder computes, in one dialect, whatever dialect `config.json` was written in.

    Sizes count elements. `norm_weight_offset` is 1 where the file stores `w` of a `(1 + w)` norm.
    `layer_windows[i]` is the number of positions layer i may look back, the token itself included;
    None means all of them. Layers with a window use `local_rope` where there is one. `dtype` is the dtype the
    checkpoint was saved in, but for `quantized_linears`, the names of the linear layers that it holds in 8 bits, with
    the scheme of each. `packed_bits` are the bits of weights that are packed in files, and expanded when they are read,
    by kind of module, "Linear" or "Embedding". `layout` names the way in which files fuse projections; None where each
    stands alone.
    """

    family: str
    architecture: str
    head: HeadKind
    dtype: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_eps: float
    rope: RopeConfig
    activation: Activation
    attention_scale: float
    layer_windows: tuple[int | None, ...]
    attention_softcap: float | None = None
    logit_softcap: float | None = None  # of the output layer
    embedding_scale: float | None = None
    norm_weight_offset: float = 0.0
    has_qk_norm: bool = False
    has_qkv_bias: bool = False
    has_o_bias: bool = False
    has_mlp_bias: bool = False
    has_post_norms: bool = False
    pad_token_id: int | None = None
    quantized_linears: Mapping[str, Scheme] = field(default_factory=dict)
    packed_bits: Mapping[str, int] = field(default_factory=dict)
    local_rope: RopeConfig | None = None
    layout: Layout | None = None
    head_input: HeadInput = HeadInput()
    experts: ExpertsConfig | None = None

    @property
    def quantization(self) -> str | None:
        """The name of the format of linear layers of 8 bits, "int8" or "fp8", if there are such, else None."""
        return next((scheme.name for scheme in self.quantized_linears.values()), None)


@dataclass(frozen=True)
class LineScore:
    """A line of a program, and the score of the program that ends with it.

    Attributes:
        number: from 1 on. text: without its line end.
        score: raw reward of the program up to this line. change: from the score before it; of the first line, from
            the score of an empty program. A blank line has the score of the line before it.
    """

    number: int
    text: str
    score: float
    change: float


@dataclass(frozen=True)
class RankedCandidate:
    """One candidate program after ranking.

    `index` is its place in the list that was ranked, `code` the program that was scored. `score` and `code` are None
    where nothing could be extracted. `missing` are the names that the problem asks for and the program does not define,
    where the ranking was told to look (`text.asked`). `dropped_at` is after how many layers an adaptive ranking dropped
    it without a score, None if it did not.
    """

    index: int
    score: float | None
    is_valid: bool
    code: str | None
    missing: tuple[str, ...] = ()
    dropped_at: int | None = None

    @property
    def is_eligible(self) -> bool:
        """Whether it is valid, and defines what is asked for."""
        return self.is_valid and not self.missing

    @property
    def place(self) -> tuple[bool, bool, float, int, int]:
        """Orders candidates: valid ones first, then those that miss no name, then by score, then by index.

        Those that were dropped come after those with a score, what was dropped late before what was dropped early.
        """
        score = float("inf") if self.score is None else -self.score
        return (not self.is_valid, bool(self.missing), score, -(self.dropped_at or 0), self.index)


# How what a program gives is compared with what is expected: by whose rule. docs/sandbox.md has a line for each.
Comparison = Literal["lines", "livecodebench", "apps", "codecontests"]
COMPARISONS: tuple[Comparison, ...] = get_args(Comparison)


@dataclass(frozen=True)
class CallTests:
    """Tests that call what a program defines.

    Attributes:
        statements: one text of Python a test, mostly an assert; it passes if it runs to its end.
        entry_points: names that the program has to define, and that stand for its own in the statements even where
            Python has a builtin of that name. If there is none, names that nothing else defines are the program's.
        prelude: runs before the tests and before the program: imports, and classes that both of them know.
        setup: runs before the tests, with the program's names at hand.
        classes: names of the program's classes, whose instances the statements use by their methods. What functions
            return counts as data. An object in it has no say: its methods could answer what a test expects.
        comparison: the rule of `_is_expected(value, expected)`, which the statements may call; None without it.
        cpu_seconds: that the source gives each test, where it is more than the limit of programs.
    """

    statements: tuple[str, ...]
    entry_points: tuple[str, ...] = ()
    prelude: str = ""
    setup: str = ""
    classes: tuple[str, ...] = ()
    comparison: Comparison | None = None
    cpu_seconds: int | None = None


@dataclass(frozen=True)
class StdioTests:
    """Tests that run a whole program.

    Attributes:
        cases: (standard input, expected standard output) of each test.
        prelude: runs before the program, in its names. In another language than Python, text that stands before it.
        comparison: the rule by which output is expected.
        allows_return: a program may return at top level: its text then is the body of a function.
        cpu_seconds: as in `CallTests`.
        input_file, output_file: names of files in place of standard input and output; empty for none.
        language: of the program, and of the texts beside it.
        harness: text that stands behind the program, and tests it: the exit status decides, and not the output. Such a
            verdict is forgeable.
    """

    cases: tuple[tuple[str, str], ...]
    prelude: str = ""
    comparison: Comparison = "lines"
    allows_return: bool = False
    cpu_seconds: int | None = None
    input_file: str = ""
    output_file: str = ""
    language: str = "python"
    harness: str = ""


Tests: TypeAlias = CallTests | StdioTests


@dataclass(frozen=True)
class Task:
    """A programming problem with what verifies a program for it.

    Attributes:
        task_id: tells problems apart. prompt: what a language model is asked, and a reward model shown.
        tests: None where there are none. reference: a program known to be correct, None where there is none.
        difficulty: in the words of its source. split, license, domain: what its source says, None where it is silent.
        tags: topics and skills that its source names. rating: a number of difficulty, None where its source has none.
        name: what messages call it.
    """

    task_id: str
    prompt: str
    tests: Tests | None = None
    reference: str | None = None
    difficulty: str | None = None
    split: str | None = None
    license: str | None = None
    domain: str | None = None
    name: str = "task"
    tags: tuple[str, ...] = ()
    rating: int | None = None

    @property
    def language(self) -> str:
        """What its programs are written in."""
        return self.tests.language if isinstance(self.tests, StdioTests) else "python"


Outcome = Literal["passed", "failed", "error", "timeout", "unjudged"]


@dataclass(frozen=True)
class Capture:
    """What a program printed for one input. `outcome` is "passed" if it ended well, else "error" or "timeout".

    The output is the program's own word: nothing was compared. `message` says how a program ended that did not end
    well.
    """

    output: str
    outcome: Outcome = "passed"
    message: str = ""
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What running a program against tests showed.

    Attributes:
        outcomes: of each test: its assertion held or its output was correct ("passed"), or not ("failed"); the program
            raised, exited, was killed for its memory, or does not compile ("error"); it, or its compiler, ran out of
            time ("timeout");
            the test itself is at fault, and says nothing of the program ("unjudged").
        message: of the first test that did not pass, what was seen; untrusted text, at most 500 characters.
        cpu_seconds: that the program took for all tests.
        is_forgeable: tests and program ran in one process, where a program can say that it passed.
    """

    outcomes: tuple[Outcome, ...]
    message: str = ""
    cpu_seconds: float = 0.0
    is_forgeable: bool = False

    @property
    def passed(self) -> bool | None:
        """Whether every test passed; None if none failed but some could not be judged, or there is no test."""
        known = [outcome for outcome in self.outcomes if outcome != "unjudged"]
        if any(outcome != "passed" for outcome in known):
            return False
        return True if known and len(known) == len(self.outcomes) else None

    @property
    def num_passed(self) -> int:
        """The number of tests passed."""
        return self.outcomes.count("passed")
