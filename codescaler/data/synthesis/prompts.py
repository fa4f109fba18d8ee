"""What language models are asked. QueST's own prompts are not public: these are ours."""

import json
from collections.abc import Sequence

FORMS = {  # and the parts of a problem, as an answer gives them
    "program": {"statement": "...", "input": "...", "output": "..."},
    "call": {"statement": "...", "signature": "def ..."},
}

_CONCEPTS = """\
Read this programming problem. Name the topics and the knowledge points that a solution needs.

A topic is general, such as "dynamic programming". A knowledge point is specific, such as "longest increasing \
subsequence in n log n". Give at most 3 topics and at most 5 knowledge points, each at most 6 words.

Answer with one JSON object and nothing else: {{"topics": ["..."], "knowledge_points": ["..."]}}

Problem:
{problem}
"""

_GENERATE = """\
{examples}Invent a new programming problem{unlike}. Its solution is {form}, and has to combine these concepts: \
{concepts}.

Answer with one JSON object and nothing else: {parts}. {described} Each legal input has exactly one correct result. \
Do not solve the problem.
"""
_FORM = {
    "program": "a whole program that reads standard input and writes standard output",
    "call": "one function of Python",
}
_DESCRIBED = {
    "program": "The statement says in three to six sentences what is given, with limits, and what has to be found in "
    "each case. The input and the output say line by line what is read and printed.",
    "call": "The statement says in three to six sentences what the function is given, with limits, and what it has to "
    "return in each case. The signature is one line, with type hints.",
}

_INPUTS = """\
Here is a programming problem:

{problem}

Write a function of Python, `generate_input(rng)`, that returns one legal input at random. `rng` is a \
`random.Random`. {form} Make some inputs small and some at the limits, with ties and repetitions. Answer with one \
block of Python and nothing else.
"""
_INPUT_FORM = {
    "program": "The result is a string: the text of standard input.",
    "call": "The result is a tuple: the arguments of `{call}`, in order.",
}

_CALLS = """\
{problem}

Write eight examples of legal inputs for this function, from small to large. Do not define the function. Write calls \
only, in this form:

```python
{call}(...)
{call}(...)
```
"""

_SOLUTION = {
    "program": "{problem}\n\nWrite a whole program in Python that reads standard input and prints the answer. "
    "Answer with one block of Python and nothing else.",
    "call": "{problem}\n\nWrite the function `{call}` in Python. Answer with one block of Python and nothing else.",
}

_VALIDATOR = """\
Here is a programming problem:

{problem}

Write a function of Python, `is_valid({argument})`, that returns True if an input meets every condition of the \
problem, and else False. {form} Check types, ranges, lengths and format. Answer with one block of Python and nothing \
else.
"""
_VALIDATOR_FORM = {
    "program": "`text` is the whole of standard input.",
    "call": "`arguments` is the tuple of the arguments of `{call}`.",
}

_PROBES = """\
Here is a programming problem:

{problem}

Give test inputs for a validator: {valid} legal inputs, and {invalid} inputs that are nearly legal and break exactly \
one condition each. {form} Answer with one JSON object and nothing else: {{"legal": [...], "illegal": [...]}}
"""
_PROBE_FORM = {
    "program": "Each is a string: the whole of standard input.",
    "call": "Each is a list: the arguments of `{call}`.",
}

_CHECKER = """\
Here is a programming problem:

{problem}

If several outputs are correct for the same input, write a function of Python, `is_correct({arguments})`, that \
returns True if an output is correct, and else False. It must work for every legal input. If each input has exactly \
one correct output, answer with the word UNIQUE. Otherwise answer with one block of Python and nothing else.
"""

_SURVIVORS = """\
Here is a programming problem:

{problem}

These programs are known to be incorrect, and yet they pass all tests so far:

{programs}

Write a function of Python, `generate_input(rng)`, that returns one legal input at random on which such programs fail. \
`rng` is a `random.Random`. {form} Answer with one block of Python and nothing else.
"""


def write_concepts_prompt(problem: str) -> str:
    """Asks for the topics and knowledge points of a problem."""
    return _CONCEPTS.format(problem=problem)


def write_problem_prompt(concepts: Sequence[str], examples: Sequence[str], form: str) -> str:
    """Asks for a new problem that needs some concepts."""
    shown = "".join(f"Problem {number}:\n{text}\n\n" for number, text in enumerate(examples, 1))
    return _GENERATE.format(
        examples=shown,
        unlike=", which asks for something else" if examples else "",
        form=_FORM[form],
        concepts=", ".join(concepts),
        parts=json.dumps(FORMS[form]),
        described=_DESCRIBED[form],
    )


def write_inputs_prompt(problem: str, call: str | None) -> str:
    """Asks for a program that makes legal inputs."""
    return _INPUTS.format(problem=problem, form=_choose(_INPUT_FORM, call))


def write_calls_prompt(problem: str, call: str) -> str:
    """Asks for legal calls of a function."""
    return _CALLS.format(problem=problem, call=call)


def write_solution_prompt(problem: str, call: str | None) -> str:
    """Asks for a solution."""
    return _SOLUTION["program" if call is None else "call"].format(problem=problem, call=call)


def write_validator_prompt(problem: str, call: str | None) -> str:
    """Asks for a program that tells legal inputs from others."""
    argument = "text" if call is None else "arguments"
    return _VALIDATOR.format(problem=problem, argument=argument, form=_choose(_VALIDATOR_FORM, call))


def write_probes_prompt(problem: str, call: str | None, num_legal: int, num_illegal: int) -> str:
    """Asks for inputs that a validator is chosen by."""
    return _PROBES.format(problem=problem, valid=num_legal, invalid=num_illegal, form=_choose(_PROBE_FORM, call))


def write_checker_prompt(problem: str, call: str | None) -> str:
    """Asks for a program that judges outputs, where several are correct."""
    arguments = "text, output" if call is None else "arguments, result"
    return _CHECKER.format(problem=problem, arguments=arguments)


def write_survivors_prompt(problem: str, call: str | None, programs: Sequence[str]) -> str:
    """Asks for inputs on which incorrect programs fail that no test fails yet."""
    blocks = "\n\n".join(f"```python\n{code}\n```" for code in programs)
    return _SURVIVORS.format(problem=problem, programs=blocks, form=_choose(_INPUT_FORM, call))


def _choose(forms: dict[str, str], call: str | None) -> str:
    return forms["program"] if call is None else forms["call"].format(call=call)
