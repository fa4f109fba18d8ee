"""The heads of public reward models: one table of tensor names, of where each head reads, and of what is refused.

A head is found by its tensors; the class name in `config.json` decides where the tensors alone say too little. This
module opens no file. What each model's own code does is told in docs/models.md.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from codescaler.checkpoint.tensor_files import TensorSource
from codescaler.errors import InvalidInput, UnsupportedModel
from codescaler.io.json import Fields
from codescaler.types import HeadInput, HeadKind

Tokens = Sequence[str | int]

_AT_LAST = HeadInput()
_BEFORE_PADS = HeadInput(skips_pads=True)
_AT_EOS = HeadInput(closes_with_eos=True)

_ATHENE_TOKEN = 128003  # its code has the number, and its config.json has not


@dataclass(frozen=True)
class HeadForm:
    """One format of a head.

    Attributes:
        kind: what it is called.
        tensors: stored names to canonical ones; the first stored name says that the head is there.
        input: what the head reads.
        classes: the class names that this head may have, a regular expression.
        promised_by: the class names without another head than this one.
        optional: canonical names that may be absent.
        tokens: of the output layer's rows that make this head; empty for a head with tensors of its own.
    """

    kind: HeadKind
    tensors: Mapping[str, str]
    input: HeadInput = _AT_LAST
    classes: str = ".*"
    promised_by: str = "(?!)"  # matches nothing
    optional: Collection[str] = field(default=frozenset())
    tokens: Tokens = ()

    @property
    def key(self) -> str:
        """The stored name that says that the head is there."""
        return next(iter(self.tensors))


def _list_mlp(prefix: str) -> dict[str, str]:
    """Names of Linear, ReLU, Linear in an nn.Sequential."""
    layers = {"0": "head.hidden", "2": "head"}
    return {f"{prefix}.{at}.{kind}": f"{role}.{kind}" for at, role in layers.items() for kind in ("weight", "bias")}


_SCORE = {"score.weight": "head.weight"}
_SUMMARY = {"v_head.summary.weight": "head.weight", "v_head.summary.bias": "head.bias"}

# The first row that fits counts.
HEAD_FORMS = (
    HeadForm(
        "token_classification",
        _SCORE | {"score.bias": "head.bias"},
        classes=".*ForTokenClassification",
        promised_by=".*ForTokenClassification",
        optional={"head.bias"},
    ),
    HeadForm("reward_model", _SCORE, _AT_EOS, classes="RewardModel"),  # OpenRLHF
    HeadForm("reward_model", {"value_head.weight": "head.weight"}, _AT_EOS, promised_by="RewardModel"),
    HeadForm("sequence_classification", _SCORE, _BEFORE_PADS, promised_by=".*ForSequenceClassification"),
    HeadForm("mlp", _list_mlp("score"), _BEFORE_PADS, promised_by=".*ForRewardModel|INFORM.*"),
    HeadForm("value_head", _SUMMARY, promised_by="AceCodeRM|.*ForCausalRM"),  # TRL, LLaMA-Factory, AceCoder
    HeadForm("mlp", _list_mlp("v_head.summary")),  # GRM
    HeadForm("appended_token", {"v_head.weight": "head.weight"}),  # Athene, InternLM2
    HeadForm("regression_head", {"regression_head.weight": "head.weight"}),  # Eurus, UltraRM
)
VOCABULARY_ROWS = HeadForm("vocabulary_rows", {"lm_head.weight": "head.weight"})

# Class names and tensors of heads that are not computed, and why.
_REFUSED = (
    (
        ".*WithGating.*",
        r"gating\..+|regression_layer\..+|reward_transform_matrix",
        "a gating network weighs many outputs by the prompt (as in ArmoRM, QRM and URM), and codescaler has one output",
    ),
    (
        ".*ProcessRewardModel|.*PRM.*",
        "",
        "it is a process reward model, which scores each step of a solution and not the whole",
    ),
    ("CriticModel", "", "it is a critic, which values each token of a policy's text and not the whole"),
    ("LDL.*", "", "it predicts a distribution of labels, and codescaler has one output"),
    (
        "",
        r"score_head\..+|normalizer\..+",
        "its head normalises scores by running statistics, which codescaler does not compute",
    ),
)


def find_head(class_name: str, names: Collection[str]) -> HeadForm | None:
    """Returns the form of the head whose tensors are among `names`, or that the class promises; None without a head.

    A promised head whose tensors are absent is returned too, so that what is missing can be named.
    """
    promised = [form for form in HEAD_FORMS if re.fullmatch(form.promised_by, class_name)]
    allowed = [form for form in HEAD_FORMS if re.fullmatch(form.classes, class_name)]
    found = [form for form in (*promised, *allowed) if form.key in names]
    return next(iter([*found, *promised]), None)


def refuse_other_heads(class_name: str, names: Collection[str], where: str) -> None:
    """Raises UnsupportedModel, with the reason, if a class name or a tensor is of a head that is known and refused."""
    for classes, tensors, reason in _REFUSED:
        name = next((name for name in sorted(names) if re.fullmatch(tensors, name)), None)
        if name is not None or re.fullmatch(classes, class_name or "-"):
            seen = f"architecture {class_name!r:.80}" + ("" if name is None else f", tensor {name!r:.80}")
            raise UnsupportedModel(
                f"{where} ({seen}): {reason}. Score with the model's own code, or load its body with head='none'."
            )


def complete_head(form: HeadForm, fields: Fields, vocab_size: int) -> HeadForm:
    """Returns the form with what `config.json` says: the token that an appended-token head reads.

    Raises:
        UnsupportedModel: no such token is known. WeightsError: it is not in the vocabulary.
    """
    if form.kind != "appended_token":
        return form
    is_athene = fields.values.get("model_type") == "llama" and vocab_size > _ATHENE_TOKEN
    if fields.values.get("reward_token_id") is None and not is_athene:
        raise UnsupportedModel(
            f"{fields.where}: v_head.weight is read at a token that comes after the text, and reward_token_id does not "
            "say which token; set reward_token_id."
        )
    token = fields.read_size("reward_token_id", _ATHENE_TOKEN, low=0, high=vocab_size - 1)
    return replace(form, input=replace(form.input, appended_id=token))


def choose_head(found: HeadForm | None, fields: Fields, vocab_size: int, tokens: Tokens | None) -> HeadForm | None:
    """Returns the head to score with: what was found, else rows of the output layer, if they are named.

    Raises: InvalidInput if rows are named and another head was found; as `complete_head` and `check_tokens`.
    """
    if found is not None:
        if tokens is not None:
            raise InvalidInput(
                f"classifier_from_token was given, but the model has a head ({found.key}); leave it out."
            )
        return complete_head(found, fields, vocab_size)
    if tokens is None:
        tokens = fields.values.get("classifier_from_token")
    return None if tokens is None else replace(VOCABULARY_ROWS, tokens=check_tokens(tokens))


def check_tokens(tokens: object, where: str = "classifier_from_token") -> Tokens:
    """Returns one or two tokens, each a text or an id. Raises InvalidInput if it is anything else."""
    is_list = isinstance(tokens, Sequence) and not isinstance(tokens, (str, bytes))
    kinds = {type(token) for token in tokens} if is_list else set()  # type: ignore[attr-defined]
    if not is_list or not 1 <= len(tokens) <= 2 or not kinds <= {str, int}:  # type: ignore[arg-type]
        raise InvalidInput(
            f"{where} is {str(tokens)[:80]}; give a list of one token, or of two, of which the first counts against "
            'the answer, such as ["no", "yes"]'
        )
    return tokens  # type: ignore[return-value]


def list_head_shapes(
    form: HeadForm | None, stored: Mapping[str, TensorSource], hidden_size: int
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a head's tensors; an MLP is as wide as its file says."""
    if form is None:
        return {}
    roles = {role: stored[name].shape for name, role in form.tensors.items() if name in stored}
    width = max(1, (roles.get("head.hidden.weight") or (0,))[0]) if form.kind == "mlp" else hidden_size
    shapes = {
        "head.hidden.weight": (width, hidden_size),
        "head.hidden.bias": (width,),
        "head.weight": (1, width),
        "head.bias": (1,),
    }
    return {role: shapes[role] for role in form.tensors.values()}
