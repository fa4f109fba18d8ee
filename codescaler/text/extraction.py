"""The ways to take a program out of a completion, by name."""

from collections.abc import Callable, Sequence

from codescaler.errors import InvalidInput
from codescaler.text.extract import (
    describe_syntax_error,
    extract_evaluation_code,
    extract_training_code,
    is_valid_code,
)
from codescaler.text.markdown import extract_markdown_code
from codescaler.text.program import normalize_program

EXTRACTORS: dict[str, Callable[[str, str], str | None]] = {
    "paper": extract_training_code,
    "last": lambda completion, language: extract_evaluation_code(completion),
    "markdown": extract_markdown_code,
    "markdown-unclosed": lambda completion, language: extract_markdown_code(completion, language, allow_unclosed=True),
}


def read_programs(texts: Sequence[str], extract: bool | str, language: str) -> list[tuple[str | None, bool]]:
    """Returns the program of each text in the form that is compared, None for none, and whether it parses.

    Texts are programs where `extract` is False, else completions.

    Raises: as `check_extraction`.
    """
    if extract is False:
        return [(code, is_valid_code(code, language)) for code in map(normalize_program, texts)]
    name = check_extraction(extract, language)
    taken = [extract_code(text, name, language) for text in texts]
    return [(None if code is None else normalize_program(code), is_valid) for code, is_valid in taken]


def check_extraction(name: str | bool, language: str) -> str:
    """Returns the name of a way, which True leaves to the paper, after a check that all it needs is there.

    Raises: InvalidInput if there is no such way, or as the extractor.
    """
    name = "paper" if name is True else name
    if name not in EXTRACTORS:
        raise InvalidInput(f"extract={name!r} is not known; use one of {', '.join(EXTRACTORS)}")
    extract_code("", name, language)
    return str(name)


def extract_code(completion: str, name: str, language: str = "python") -> tuple[str | None, bool]:
    """Returns the program that a completion holds, None for none, and whether it parses."""
    code = EXTRACTORS[name](completion, language)
    return code, code is not None and (name != "last" or is_valid_code(code, language))


def explain_invalid(text: str | None, code: str | None, language: str) -> tuple[str, str | None]:
    """Returns why a candidate is invalid, and where Python's parser gives it up, None in other languages.

    `text` is the completion, None for none, and `code` what was taken out.
    """
    program = code if code is not None or text is None else extract_evaluation_code(text)
    if program is None:
        return "no program", None
    error = describe_syntax_error(program) if language == "python" else None
    has_parsed = code is None and error is None and (language == "python" or is_valid_code(program, language))
    return "several blocks" if has_parsed else "does not parse", error
