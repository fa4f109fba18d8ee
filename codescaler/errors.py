"""The error tree: every error that codescaler raises on purpose is a `CodescalerError`.

A message says what was wrong, the value seen, and what to do about it.
"""


def make_printable(text: str) -> str:
    """Returns untrusted text for a terminal: control characters, which could drive it, are spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class CodescalerError(Exception):
    """Base of all errors raised on purpose by codescaler. Its text is one line that a terminal may show.

    Messages quote files: names of tensors, what a template says, what a library found. So the text is made printable
    here, for all of them.
    """

    def __str__(self) -> str:
        return make_printable(super().__str__())


class InvalidInput(CodescalerError, ValueError):
    """An argument or a record that a caller gave is not usable."""


class WeightsError(CodescalerError):
    """A checkpoint folder or one of its files is not usable."""


class MissingTensor(WeightsError):
    """A tensor or file that the configuration asks for is absent."""


class SettingsMismatch(WeightsError):
    """A file was made with other settings than those of now."""


class ShapeMismatch(WeightsError):
    """A tensor's shape or dtype differs from what the configuration asks for."""


class HostileFile(WeightsError):
    """A file is damaged or made to mislead: it is refused before any of it is used."""


class UnsupportedModel(CodescalerError):
    """The checkpoint is well formed but asks for something the engine does not compute."""


class TrainingDiverged(CodescalerError):
    """A loss or a gradient is not finite; what was saved before is intact."""


class BackendUnavailable(CodescalerError):
    """A backend, device or instruction set asked for by name is not to be had on this host."""


class SandboxUnavailable(CodescalerError):
    """Untrusted programs cannot be isolated on this host as far as was asked for."""


class EndpointUnavailable(CodescalerError):
    """A server that answers for a language model was asked again and again, and does not."""


class OutputUnavailable(CodescalerError, OSError):
    """A file cannot be written: a full disk, a folder without permission, or a name that is no regular file."""


class CapacityExceeded(CodescalerError):
    """One sequence alone is larger than the token budget."""


class DeadlineExceeded(CodescalerError):
    """A request waited until after its deadline and was not computed."""
