"""What language models are asked. QueST's own prompts are not public: these are ours."""

from collections.abc import Sequence

FORMS = ("program", "call")

_CONCEPTS = """\
Read this programming problem. Name the topics and the knowledge points that a solution needs.

A topic is general, such as "dynamic programming". A knowledge point is specific, such as "longest increasing \
subsequence in n log n". Give at most 3 topics and at most 5 knowledge points, each at most 6 words.

Answer with one JSON object and nothing else: {{"topics": ["..."], "knowledge_points": ["..."]}}

Problem:
{problem}
"""

_GENERATE = """\
Write one new programming problem. A solution has to combine these concepts: {concepts}.

{examples}The new problem must not be a variant of {a_problem}. {form} State every condition on the input, with its \
limits. For each legal input there is exactly one correct output. Add two examples with their outputs. Answer with the \
statement of the problem only, without a solution.
"""
_FORM = {
    "program": "A solution is a whole program that reads standard input and writes standard output. Describe both.",
    "call": "A solution is one function of Python. Give its signature on a line of its own, which starts with `def`.",
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

_SOLUTION = {
    "program": "{problem}\n\nWrite a whole program in Python that reads standard input and prints the answer.",
    "call": "{problem}\n\nWrite the function `{call}` in Python.",
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
    shown = "".join(f"Example {number}:\n{text}\n\n" for number, text in enumerate(examples, 1))
    a_problem = "an example" if examples else "a known problem"
    return _GENERATE.format(concepts=", ".join(concepts), examples=shown, a_problem=a_problem, form=_FORM[form])


def write_inputs_prompt(problem: str, call: str | None) -> str:
    """Asks for a program that makes legal inputs."""
    return _INPUTS.format(problem=problem, form=_choose(_INPUT_FORM, call))


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
