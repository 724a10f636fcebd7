"""What every store refuses, so that both refuse the same."""

from __future__ import annotations

from agentkernel.errors import InvalidInput
from agentkernel.model.record import Event, SandboxRecord

MAX_PAGE = 1000


def check_record(record: SandboxRecord) -> None:
    """Raises InvalidInput for text that is no Unicode (half a surrogate pair, which JSON can smuggle in)."""
    _check_text(record.sandbox_id, record.name, record.owner, record.backend, record.reason, record.request_key)
    for key, value in record.labels:
        _check_text(key, value)


def check_event(event: Event) -> None:
    """The same for an event; its details may hold any text."""
    _check_text(event.kind, event.principal, event.sandbox_id, event.sandbox, event.backend, event.isolation, event.outcome)


def check_limit(limit: int) -> int:
    """Returns the length of a page, or raises InvalidInput."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"a page has 1 to {MAX_PAGE} entries, not {limit}")
    return limit


def _check_text(*texts: str) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"text that is no Unicode: {error.object!r}", hint="use UTF-8") from error
