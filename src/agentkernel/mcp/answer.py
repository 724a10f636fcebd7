"""What a tool gives back: a shape for programs, and blocks for reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcp_types import CallToolResult, ContentBlock, TextContent
from pydantic import BaseModel

from agentkernel.errors import AgentKernelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The shape that the tool's schema promises, and the same for reading."""

    shape: BaseModel
    blocks: Sequence[ContentBlock]


def said(shape: BaseModel, text: str) -> Answer:
    """An answer in words."""
    return Answer(shape=shape, blocks=(text_block(text),))


def text_block(text: str) -> TextContent:
    """One block of text."""
    return TextContent(type="text", text=text)


def result_of(answer: Answer) -> CallToolResult:
    """As the protocol has it."""
    return CallToolResult(content=list(answer.blocks), structured_content=answer.shape.model_dump(mode="json"))


def refusal(error: AgentKernelError) -> CallToolResult:
    """An error as a model reads it: what, and what now; `code` is for programs."""
    text = f"Error: {error.message}" + (f"\n{error.hint}" if error.hint else "")
    structured = {"error": error.message, "code": error.code, "hint": error.hint}
    return CallToolResult(content=[text_block(text)], structured_content=structured, is_error=True)
