"""The one table from errors to HTTP: the status, and the headers that belong to it.

A command that failed, timed out, was not found or could not be executed is no error but a result, and answered with 200.
"""

from __future__ import annotations

import errno
from typing import Final

from agentkernel.errors import AgentKernelError, Busy, FileOperationFailed, InvalidInput, Unauthorized


class MethodNotAllowed(InvalidInput):
    """There is such a path, but not with this method."""

    code = "method_not_allowed"


class BodyTooLarge(InvalidInput):
    """The body has more bytes than this route takes; nothing was done."""

    code = "body_too_large"


class UnsupportedMedia(InvalidInput):
    """The body is coded in a way that is not read here; nothing was done."""

    code = "unsupported_media_type"


class TooManyRequests(Busy):
    """The token, or the address, asks more often than it may; nothing was done."""

    code = "too_many_requests"

    def __init__(self, message: str, *, retry_after_s: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


STATUS: Final[dict[str, int]] = {
    "invalid_input": 400,
    "unknown_key": 400,
    "unauthorized": 401,
    "refused": 403,
    "not_trusted": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "output_too_large": 413,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "unsupported": 422,
    "command_not_started": 422,  # where it would have gone on by itself; else that is its result
    "command_not_found": 422,
    "command_not_executable": 422,
    "busy": 429,
    "too_many_requests": 429,
    "error": 500,
    "store_failed": 500,
    "image_failed": 502,
    "launch_failed": 502,
    "protocol_violation": 502,
    "sandbox_failed": 502,
    "sandbox_lost": 502,
    "backend_unavailable": 503,
    "daemon_unavailable": 503,
    "server_unavailable": 503,
}
BY_ERRNO: Final[dict[int, int]] = {  # of an operation on a file inside; any other errno is 400
    errno.ENOENT: 404,
    errno.EACCES: 403,
    errno.EPERM: 403,
    errno.EROFS: 403,
    errno.EEXIST: 409,
    errno.ENOTEMPTY: 409,
    errno.EBUSY: 409,
    errno.ENOSPC: 507,
    errno.EDQUOT: 507,
}
INTERNAL: Final = 500


def status_of(error: AgentKernelError) -> int:
    """The HTTP status of an error; 500 for one that no caller can do anything about."""
    if isinstance(error, FileOperationFailed):
        return BY_ERRNO.get(error.errno, 400)
    return STATUS.get(error.code, INTERNAL)


def headers_of(error: AgentKernelError) -> dict[str, str]:
    """The headers that the status asks for: how to authenticate, when to come again."""
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": 'Bearer realm="agentkernel"'}
    if isinstance(error, Busy):
        wait_s = error.retry_after_s if isinstance(error, TooManyRequests) else 1.0
        return {"Retry-After": str(max(1, round(wait_s + 0.5)))}
    return {}
