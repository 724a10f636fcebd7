"""Everything that can go wrong, as one tree.

    AgentKernelError                 code            exit
      InvalidInput                   invalid_input      2   the request cannot be right, on any host
        UnknownKey                   unknown_key        2   a key, profile, flag or value that does not exist
      Unauthorized                   unauthorized     125   a server wants a token, and has none or a wrong one
      Refused                        refused          125   policy says no
        NotTrusted                   not_trusted      125   a project file wants to loosen the policy
      Unsupported                    unsupported      125   the backend or this host cannot do it; nothing was done
        BackendUnavailable           backend_unavailable  125   the backend cannot run here at all
      NotFound                       not_found        125
      Conflict                       conflict         125
      Busy                           busy             125   too much at once; nothing was done, try again
      ImageFailed                    image_failed     125   an image cannot be had, or is not what its digests say
      StoreFailed                    store_failed     125   the disk or database of agentkernel's own state failed
      DaemonUnavailable              daemon_unavailable  125  no daemon answers and none can be started
      ServerUnavailable              server_unavailable  125  the daemon elsewhere cannot be asked; nothing was done
        CertificateUntrusted         certificate_untrusted  125  its certificate is none that this machine trusts
        VersionDiffers               version_differs  125   it is of another version than this
        DoorMissing                  door_missing     125   what answers there has no door for clients
      SandboxFailed                  sandbox_failed   125   the sandbox, not the command, failed
        LaunchFailed                 launch_failed    125   it could not be built; nothing is left of it
        SandboxLost                  sandbox_lost     125   it died; whether the command took effect is unknown
        ProtocolViolation            protocol_violation  125  the guest broke the protocol; the channel is closed
      CommandNotStarted              command_not_started  125   the command could not be started (see subclasses)
        CommandNotFound              command_not_found  127
        CommandNotExecutable         command_not_executable  126
      CommandFailed                  command_failed     1   raised by the SDK's `check` alone; carries the result
      TimedOut                       timed_out        124   the whole process tree was killed; the sandbox still runs
      FileOperationFailed            file_operation   125   carries the errno
      OutputTooLarge                 output_too_large 125

A command that fails is not an error but an `ExecResult` with its exit code, unless its caller asks for an error then. Each class has one
stable `code`; the message says what happened and `hint` what to do now.
"""

from __future__ import annotations

import os


class AgentKernelError(Exception):
    """Base of all errors; `code` is stable, `hint` may be empty, `exit_status` is what the command line exits with."""

    code = "error"
    exit_status = 125

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidInput(AgentKernelError):
    """The request cannot be right, whatever the host; nothing was done."""

    code = "invalid_input"
    exit_status = 2


class UnknownKey(InvalidInput):
    """A name that does not exist (key, profile, backend, flag); the hint suggests the nearest one."""

    code = "unknown_key"


class Unauthorized(AgentKernelError):
    """A server wants a token and was given none, or one that it does not know; nothing was done."""

    code = "unauthorized"


class Refused(AgentKernelError):
    """Policy forbids the request; nothing was done."""

    code = "refused"


class NotTrusted(Refused):
    """A project file asks for more than the user allows; `agentkernel trust` accepts exactly that file."""

    code = "not_trusted"


class Unsupported(AgentKernelError):
    """The backend or this host cannot honour the request; raised before any side effect."""

    code = "unsupported"


class BackendUnavailable(Unsupported):
    """The backend cannot run on this host; the message says why, the hint what to install or allow."""

    code = "backend_unavailable"


class NotFound(AgentKernelError):
    """The named thing does not exist."""

    code = "not_found"


class Conflict(AgentKernelError):
    """The thing exists already, or is not in a state that allows the operation."""

    code = "conflict"


class Busy(AgentKernelError):
    """A queue or quota is full; nothing was done, and trying again later is right."""

    code = "busy"


class ImageFailed(AgentKernelError):
    """An image cannot be had: its registry does not answer, or sends what its digests do not say. Nothing of it is left but whole blobs."""

    code = "image_failed"


class StoreFailed(AgentKernelError):
    """The store cannot be read or written; what was acknowledged before is not lost."""

    code = "store_failed"


class DaemonUnavailable(AgentKernelError):
    """No daemon answers and none can be started; nothing was done."""

    code = "daemon_unavailable"


class ServerUnavailable(AgentKernelError):
    """The daemon is elsewhere (AGENTKERNEL_HOST), and the server there does not answer, or not as one; nothing was done."""

    code = "server_unavailable"


class CertificateUntrusted(ServerUnavailable):
    """The server's certificate is not one that this machine trusts for its name; nothing was sent, no token either."""

    code = "certificate_untrusted"


class VersionDiffers(ServerUnavailable):
    """The server is of another version, whose requests may mean something else; nothing was done."""

    code = "version_differs"


class DoorMissing(ServerUnavailable):
    """What answers is no agentkernel server, or one without a door for clients; nothing was done."""

    code = "door_missing"


class SandboxFailed(AgentKernelError):
    """The sandbox failed, not the command in it."""

    code = "sandbox_failed"


class LaunchFailed(SandboxFailed):
    """The sandbox could not be built; nothing of it is left behind."""

    code = "launch_failed"


class SandboxLost(SandboxFailed):
    """The sandbox died; whether the running command took effect is unknown."""

    code = "sandbox_lost"


class ProtocolViolation(SandboxFailed):
    """The guest sent what the protocol does not allow; the channel was closed."""

    code = "protocol_violation"


class CommandNotStarted(AgentKernelError):
    """The command could not be started inside the sandbox."""

    code = "command_not_started"


class CommandNotFound(CommandNotStarted):
    """No such program inside the sandbox."""

    code = "command_not_found"
    exit_status = 127


class CommandNotExecutable(CommandNotStarted):
    """The program exists inside the sandbox but cannot be executed."""

    code = "command_not_executable"
    exit_status = 126


class CommandFailed(AgentKernelError):
    """A command ended with another exit code than 0 and its caller had asked for an error then; `result` is what it gave."""

    code = "command_failed"
    exit_status = 1

    def __init__(self, message: str, *, hint: str = "", result: object = None) -> None:
        super().__init__(message, hint=hint)
        self.result = result


class TimedOut(AgentKernelError):
    """The command ran longer than its `timeout_s`; its whole process tree was killed, the sandbox still runs."""

    code = "timed_out"
    exit_status = 124


class FileOperationFailed(AgentKernelError):
    """A file operation inside the sandbox failed; `errno` says how (`errno.ENOENT`, ...)."""

    code = "file_operation"

    def __init__(self, operation: str, path: str, errno: int) -> None:
        super().__init__(f"{operation} {path!r} in the sandbox: {os.strerror(errno)}")
        self.errno = errno


class OutputTooLarge(AgentKernelError):
    """More bytes than the caller's limit."""

    code = "output_too_large"
