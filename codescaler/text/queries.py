"""A prompt and its completion in one text, as a policy reads and writes it."""

from codescaler.errors import InvalidInput

LEAST_OVERLAP = 16  # characters of a prompt of which the beginning was cut off: fewer may be the same by chance


def cut_prompt(query: str, prompt: str) -> str:
    """Returns what follows the prompt in a query, which begins with the end of the prompt if that was too long.

    Raises:
        InvalidInput: the query begins with neither.
    """
    if query.startswith(prompt):
        return query[len(prompt) :]
    start = prompt.find(query[:LEAST_OVERLAP])
    while 0 <= start <= len(prompt) - LEAST_OVERLAP:
        if query.startswith(prompt[start:]):
            return query[len(prompt) - start :]
        start = prompt.find(query[:LEAST_OVERLAP], start + 1)
    raise InvalidInput(f"the query {query!r:.80} does not begin with the prompt {prompt!r:.80}, or with its end")
