"""`Refusal`: a request that is answered with an error, what status each error of codescaler has, and the answer."""

from typing import Literal

import codescaler.errors as errors
from codescaler.serve.answers import Error, ErrorAnswer


class Refusal(errors.CodescalerError):
    """A request that gets no score.

    Attributes:
        status: of the answer. code: names the cause, for programs and metrics.
        retry_after_s: seconds after which the client may come again.
    """

    def __init__(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


# 503 and never 429: verl retries the one and ends its run at the other.
_STATUSES: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.DeadlineExceeded, 504, "deadline_exceeded"),
    (errors.CapacityExceeded, 400, "too_long"),
    (errors.InvalidInput, 400, "invalid_request"),
    (errors.BackendUnavailable, 503, "unavailable"),
    (errors.CodescalerError, 500, "model_failed"),
)


def make_refusal(error: Exception) -> Refusal:
    """Returns the refusal that an error becomes; what is no error of codescaler is not described to a client."""
    if isinstance(error, Refusal):
        return error
    for kind, status, code in _STATUSES:
        if isinstance(error, kind):
            return Refusal(status, code, str(error))
    return Refusal(500, "internal_error", f"{type(error).__name__} in the server; its log has the rest")


def describe_refusal(refusal: Refusal) -> tuple[ErrorAnswer, dict[str, str]]:
    """Returns the body of the answer to a refused request, and the headers that tell when to come again."""
    message = str(refusal)
    kind: Literal["server_error", "invalid_request_error"] = (
        "server_error" if refusal.status >= 500 else "invalid_request_error"
    )
    error = Error(message=message, type=kind, param=None, code=refusal.code)
    answer = ErrorAnswer(error=error, object="error", message=message, detail=message, code=refusal.status)
    return answer, {} if refusal.retry_after_s is None else {"retry-after": str(refusal.retry_after_s)}
