"""The error tree: every error that codescaler raises on purpose is a `CodescalerError`.

A message says what was wrong, the value seen, and what to do about it.
"""


class CodescalerError(Exception):
    """Base of all errors raised on purpose by codescaler."""


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


class CapacityExceeded(CodescalerError):
    """One sequence alone is larger than the token budget."""


class DeadlineExceeded(CodescalerError):
    """A request waited until after its deadline and was not computed."""
