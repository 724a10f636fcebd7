"""What a tool gives back: a shape for programs, and blocks for reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from mcp_types import CallToolResult, ContentBlock, TextContent
from pydantic import BaseModel

from agentkernel.errors import AgentKernelError

_REFUSAL: Final = ("error", "code", "hint")


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


def schema_of(shape: type[BaseModel]) -> dict[str, Any]:
    """The schema of a tool's structured answers: of the shape, and of errors as well, for many clients hold those against it too."""
    schema = shape.model_json_schema(mode="serialization")
    texts = {key: {"type": "string"} for key in _REFUSAL}
    required = schema.pop("required", [])
    return schema | {"properties": schema["properties"] | texts, "anyOf": [{"required": required}, {"required": list(_REFUSAL)}]}


def refusal(error: AgentKernelError) -> CallToolResult:
    """An error as a model reads it: what, and what now; `code` is for programs."""
    text = f"Error: {error.message}" + (f"\n{error.hint}" if error.hint else "")
    structured = dict(zip(_REFUSAL, (error.message, error.code, error.hint), strict=True))
    return CallToolResult(content=[text_block(text)], structured_content=structured, is_error=True)
