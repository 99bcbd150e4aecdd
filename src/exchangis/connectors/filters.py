"""Checking the one expression that a user may write as a row filter."""

from __future__ import annotations

import sqlglot
from sqlglot import expressions as exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from exchangis.domain.errors import InvalidRequest

# A filter is evaluated for each row. Whatever reads other tables, files or the server's state has
# no place in it; neither has what would end the expression and begin something else.
_FORBIDDEN = (exp.Query, exp.DDL, exp.DML, exp.Command, exp.Into)
_COMMENT_MARKS = {"mysql": ("--", "/*", "#")}


def _has_comment_mark(text: str, tokens: list[Token], dialect: str) -> bool:
    """Whether a comment begins outside of quotes: a second look that trusts no parser's extras."""
    quoted = {TokenType.STRING, TokenType.IDENTIFIER}
    bare = list(text)
    for token in tokens:
        if token.token_type in quoted:
            bare[token.start : token.end + 1] = " " * (token.end + 1 - token.start)
    outside = "".join(bare)
    return any(mark in outside for mark in _COMMENT_MARKS.get(dialect, ("--", "/*")))


def check_filter(text: str, dialect: str) -> str:
    """The filter as one boolean expression in `dialect`, its text as given; else InvalidRequest.

    A leading WHERE is accepted and dropped. Comments, subqueries and several statements are
    refused: the text is placed between parentheses in the source's SELECT.
    """
    stripped = text.strip()
    if stripped[:6].upper() == "WHERE ":
        stripped = stripped[6:].strip()
    try:
        tokens = sqlglot.tokenize(stripped, read=dialect)
        tree = sqlglot.parse_one(f"SELECT 1 WHERE ({stripped}\n)", read=dialect)
    except SqlglotError as error:
        reason = str(error).splitlines()[0] if str(error) else "not a valid expression"
        raise InvalidRequest.field(
            "where", text, f"not one SQL expression: {reason}", guidance="Write e.g. id > 100."
        ) from error
    where = tree.args.get("where")
    whole = isinstance(tree, exp.Select) and {k for k, v in tree.args.items() if v} <= {
        "expressions",
        "where",
        "kind",
    }
    if not whole or not isinstance(where, exp.Where) or not isinstance(where.this, exp.Paren):
        raise InvalidRequest.field("where", text, "must be one expression and nothing after it")
    if any(token.comments for token in tokens) or _has_comment_mark(stripped, tokens, dialect):
        raise InvalidRequest.field("where", text, "comments are not allowed in a filter")
    for node in where.walk():
        if isinstance(node, _FORBIDDEN):
            raise InvalidRequest.field(
                "where", text, "subqueries and statements are not allowed in a filter"
            )
    return stripped
