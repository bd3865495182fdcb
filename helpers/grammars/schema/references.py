"""Where the references of a JSON Schema lead: `$ref`, `$id`, `$anchor` and their kin."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urljoin

from helpers.grammars.schema.dialect import NOT_SCHEMAS, escape, invalid_schema

MAX_DEPTH = 150
"""Schemas inside each other."""


class References:
    """The names in one schema.

    Args:
        schema: The schema.
        draft: 4, 6, 7, 2019 or 2020.

    Raises:
        GrammarError: If it nests too deep.
    """

    def __init__(self, schema: Any, draft: int) -> None:
        self.schema = schema
        self.id_keys = ("$id", "id") if draft <= 4 else ("$id",)
        self.pointers: dict[str, str] = {}
        self._index(schema, "", "", 0)

    def _index(self, node: Any, pointer: str, base: str, depth: int) -> None:
        """Note where `$id` and `$anchor` are."""
        check_depth(depth, pointer)
        if isinstance(node, list):
            for at, item in enumerate(node):
                self._index(item, f"{pointer}/{at}", base, depth + 1)
        if not isinstance(node, dict):
            return
        name = next((node[key] for key in self.id_keys if key in node), None)
        if isinstance(name, str):
            base = urljoin(base, name)
            self.pointers.setdefault(base.rstrip("#"), pointer)
            self.pointers.setdefault(name.rstrip("#"), pointer)
        for key in ("$anchor", "$dynamicAnchor"):
            if isinstance(node.get(key), str):
                self.pointers.setdefault(f"{base.rstrip('#')}#{node[key]}", pointer)
                self.pointers.setdefault(f"#{node[key]}", pointer)
        for key, value in node.items():
            if key not in NOT_SCHEMAS:
                self._index(value, f"{pointer}/{escape(key)}", base, depth + 1)

    def resolve(self, reference: Any, pointer: str, keyword: str) -> tuple[Any, str] | None:
        """The schema that a reference names.

        Args:
            reference: Value of the keyword.
            pointer: JSON pointer to the keyword.
            keyword: The keyword.

        Returns:
            The schema and its pointer; None for one that is elsewhere.

        Raises:
            GrammarError: If it names nothing.
        """
        if not isinstance(reference, str):
            raise invalid_schema("a reference is a string", pointer, keyword)
        base, _, fragment = reference.partition("#")
        start = ""
        if base:
            if base not in self.pointers:
                return None
            start = self.pointers[base]
        nothing = invalid_schema(f"{reference} names nothing in this schema", pointer, keyword)
        if fragment and not fragment.startswith("/"):
            found = self.pointers.get(reference, self.pointers.get(f"#{fragment}"))
            if found is None:
                raise nothing
            start, fragment = found, ""
        target = start + unquote(fragment)
        node = self.schema
        for part in target.split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and re.fullmatch(r"\d{1,6}", part) and int(part) < len(node):
                node = node[int(part)]
            elif isinstance(node, dict) and part in node:
                node = node[part]
            else:
                raise nothing
        return node, target


def check_depth(depth: int, pointer: str) -> None:
    """Refuse what nests too deep.

    Raises:
        GrammarError: Beyond `MAX_DEPTH`.
    """
    if depth > MAX_DEPTH:
        raise invalid_schema(f"schemas nest more than {MAX_DEPTH} deep", pointer[:200])
