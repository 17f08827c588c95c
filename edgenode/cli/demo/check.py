"""An independent look at source files: the tokenizer and the compiler's symbol tables instead of the syntax tree."""

from __future__ import annotations

import io
import symtable
import token
import tokenize
from collections.abc import Iterator

_BRANCH_WORDS = {"if", "elif", "while", "except"}
_FSTRING_START = getattr(token, "FSTRING_START", None)
_FSTRING_END = getattr(token, "FSTRING_END", None)


def count(source: bytes) -> tuple[int, int, int]:
    """(lines, functions, branches) of Python source that compiles. Raises SyntaxError, ValueError for other source."""
    lines = len(source.splitlines()) if b"\r" not in source and b"\x0c" not in source else source.count(b"\n")
    if b"\r" in source or b"\x0c" in source:
        lines += not source.endswith(b"\n")
    return lines, _functions(source), _branches(source)


def _functions(source: bytes) -> int:
    table = symtable.symtable(_text(source), "checked", "exec")
    return sum(1 for inner in _tables(table) if isinstance(inner, symtable.Function) and _is_definition(inner))


def _is_definition(table: symtable.Function) -> bool:
    # Lambdas and comprehensions have tables too; a comprehension takes the iterable as `.0`.
    return table.get_type() == "function" and table.get_name() != "lambda" and ".0" not in table.get_parameters()


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _branches(source: bytes) -> int:
    branches = depth = 0
    for found in tokenize.tokenize(io.BytesIO(source).readline):
        if found.type == _FSTRING_START:
            depth += 1
        elif found.type == _FSTRING_END:
            depth -= 1
        elif not depth and found.type == token.NAME and found.string in _BRANCH_WORDS:
            branches += 1
    return branches


def _text(source: bytes) -> str:
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    return io.TextIOWrapper(io.BytesIO(source), encoding).read()
