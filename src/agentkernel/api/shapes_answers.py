"""What answers hold, for /openapi.json and for who reads it: answers are written by `text.records`, these models are never filled in.

The tests hold every answer against its model. Here is what all of them have in common.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")


class Answer(BaseModel):
    """An object of which every field is described."""

    model_config = ConfigDict(extra="forbid")


class Success(Answer, Generic[T]):
    """What was asked for."""

    success: Literal[True]
    data: T


class Problem(Answer):
    """What went wrong."""

    success: Literal[False]
    error: str = Field(description="What happened, in one line.")
    code: str = Field(description="Which kind of error it is; stable.")
    hint: str | None = Field(None, description="What to do now.")


class Notice(Answer):
    """Something to know about the request."""

    code: str
    message: str
    hint: str


def said(data: Any, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with `data`."""
    return {status: {"model": Success[data], "description": "What was asked for."}}
