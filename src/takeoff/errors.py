"""Every error a person or a client can see, with the HTTP status and the exit code it becomes.

TakeoffError                500  base class; also: a bug on our side
├── InvalidRequest          400  the request can never succeed
│   ├── InvalidBody         422  the body is not JSON of the right shape (FastAPI's error shape)
│   └── PromptTooLong       400  prompt and completion exceed the context of one sequence
├── Unauthorized            401  no key, or not one of ours
├── Forbidden               403  a Host or Origin that is not allowed here
├── NotFound                404  no such path, model, group or reader
├── MethodNotAllowed        405  the path exists, the method does not
├── RequestTimeout          408  the client took too long to send its request
├── NoRoom                  409  the model does not fit into the memory that is left
├── Gone                    410  the events asked for are not kept any more
├── PayloadTooLarge         413  the body is larger than the limit
├── Overloaded              429  the queue is full; retry later
│   └── RateLimited         429  the key has used what it may; retry later
├── HeadersTooLarge         431  the header block is larger than the limit
├── Cancelled               499  its client ended it, before it had said anything
├── NotReady                503  no reader is live (loading, draining, restarting)
├── EngineFailed            503  engines die of the request, or it may not be replayed
├── PreparerFailed          503  the preparer was late or died; a fresh one is starting
├── DeadlineExceeded        504  the time that its client gave it was over, before it had said anything
└── StartError              exit code 1: the command line prints one line and a hint
    ├── ClusterError        there is no cluster, or it can't do what it was told
    ├── SettingsError       a flag, variable or manifest entry is wrong
    ├── ModelError          the model file is missing, damaged or of a kind we can't run
    ├── PullError           a model could not be fetched
    ├── PlanError           the model does not fit into memory with these settings
    ├── BatchError          a file of a batch is not what it should be, or can't be read or written
    ├── KeyFileError        the file of API keys, or what should become of it, is wrong
    └── TargetError         the server to measure is not there, or speaks another API

The message is a fact with its numbers; `hint` says what to do.
"""

from __future__ import annotations

from typing import Self


class TakeoffError(Exception):
    """Base of the tree. `status` and `code` are the wire's; only the doors use them."""

    status = 500
    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param  # the request field or setting at fault
        self.hint = hint

    @property
    def told(self) -> str:
        """What happened and what to do, in one line."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidRequest(TakeoffError):
    status, code = 400, "invalid_request"


class InvalidBody(InvalidRequest):
    status, code = 422, "invalid_body"


class PromptTooLong(InvalidRequest):
    status, code = 400, "context_length_exceeded"

    @classmethod
    def beyond(cls, num_tokens: int, context: int, *, param: str | None = None) -> Self:
        """A prompt that leaves its completion no room in a sequence of `context` tokens."""
        return cls(
            f"the prompt has {num_tokens} tokens, but a sequence holds {context} "
            "and one of them is the completion's",
            param=param,
            hint="shorten the prompt, or serve with a larger --context",
        )


class Unauthorized(TakeoffError):
    status, code = 401, "unauthorized"


class Forbidden(TakeoffError):
    status, code = 403, "forbidden"


class NotFound(TakeoffError):
    status, code = 404, "not_found"


class MethodNotAllowed(TakeoffError):
    status, code = 405, "method_not_allowed"


class RequestTimeout(TakeoffError):
    status, code = 408, "request_timeout"


class NoRoom(TakeoffError):
    status, code = 409, "no_room"


class Gone(TakeoffError):
    status, code = 410, "gone"


class PayloadTooLarge(TakeoffError):
    status, code = 413, "payload_too_large"


class Overloaded(TakeoffError):
    """`retry_after_s` is computed from the rate at which the queue drains."""

    status, code = 429, "overloaded"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimited(Overloaded):
    """`retry_after_s` is computed from the key's own limit; `of` is what is limited, in OpenAI's word."""

    status, code = 429, "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: float, of: str) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.of = of


class HeadersTooLarge(TakeoffError):
    status, code = 431, "headers_too_large"


class Cancelled(TakeoffError):
    status, code = 499, "cancelled"


class NotReady(TakeoffError):
    """`retry_after_s`: when another try may do better, where that is known."""

    status, code = 503, "not_ready"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        hint: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, param=param, hint=hint)
        self.retry_after_s = retry_after_s


class EngineFailed(TakeoffError):
    status, code = 503, "engine_failed"


class PreparerFailed(TakeoffError):
    status, code = 503, "preparer_failed"


class DeadlineExceeded(TakeoffError):
    status, code = 504, "deadline_exceeded"


class StartError(TakeoffError):
    code = "start_error"


class ClusterError(StartError):
    code = "cluster_error"


class SettingsError(StartError):
    code = "settings_error"


class ModelError(StartError):
    code = "model_error"


class PullError(StartError):
    code = "pull_error"


class PlanError(StartError):
    code = "plan_error"


class BatchError(StartError):
    code = "batch_error"


class KeyFileError(StartError):
    code = "key_file_error"


class TargetError(StartError):
    code = "target_error"
