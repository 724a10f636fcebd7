"""The rest of a path, whatever is in it: what the framework calls `path` ends at a newline, and names of files do not."""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor


class Rest(Convertor[str]):
    """`{path:rest}` in a route."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        """As it is."""
        return value

    def to_string(self, value: str) -> str:
        """As it is."""
        return value


register_url_convertor("rest", Rest())
