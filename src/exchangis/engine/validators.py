"""Validators: conditions that each value of a column must meet; a row that fails one is dirty.

Written as in SQL behind a column name: `> 1`, `!= x`, `like a%`, `in (1, 2)`, `between 1 and 5`,
`is not null`, `regexp ^a`. NULL fails every condition but `is null`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from exchangis.engine import conditions
from exchangis.engine.conditions import Predicate

_ALIASES = {"==": "=", "<>": "!=", "rlike": "regexp", "not rlike": "not regexp"}
_OPERATOR = re.compile(
    r"\s*(?P<op>[<>=!~]+|(?:is\s+not\s+null|is\s+null|not\s+like|not\s+in|not\s+between"
    r"|not\s+regexp|not\s+rlike|like|in|between|regexp|rlike|[A-Za-z_]+)(?![A-Za-z0-9_]))",
    re.IGNORECASE,
)
_LIST = re.compile(r"""\s*('(?:[^']|'')*'|"(?:[^"]|"")*"|[^,]*?)\s*(?:,|$)""")
_BETWEEN = re.compile(r"^\s*(?P<low>.+?)\s+and\s+(?P<high>.+?)\s*$", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Validator:
    """A parsed condition: `text` as written, operator in lower case, operands unquoted."""

    text: str
    operator: str
    operands: tuple[str, ...]

    def bind(self, data_type: Any) -> Predicate:
        """The condition on arrays of this type; ValueError when an operand does not fit it."""
        return _OPERATORS[self.operator].bind(self.operands, data_type)


@dataclass(frozen=True, slots=True)
class _Operator:
    description: str
    operands: Callable[[str], tuple[str, ...]]
    bind: Callable[[tuple[str, ...], Any], Predicate]


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1].replace(text[0] * 2, text[0])
    return text


def _one(rest: str) -> tuple[str, ...]:
    if not rest.strip():
        raise ValueError("a value is missing")
    return (_unquoted(rest),)


def _none(rest: str) -> tuple[str, ...]:
    if rest.strip():
        raise ValueError(f"takes no value, but {rest.strip()!r} follows")
    return ()


def _several(rest: str) -> tuple[str, ...]:
    inner = rest.strip()
    if not (inner.startswith("(") and inner.endswith(")")):
        raise ValueError("expected a list such as (1, 2)")
    inner = inner[1:-1].strip()
    if not inner:
        raise ValueError("the list is empty")
    values: list[str] = []
    at = 0
    while at < len(inner):
        match = _LIST.match(inner, at)
        if match is None:
            raise ValueError("expected values separated by commas")
        values.append(_unquoted(match[1]))
        at = match.end()
    return tuple(values)


def _pair(rest: str) -> tuple[str, ...]:
    match = _BETWEEN.match(rest)
    if match is None:
        raise ValueError("expected LOW and HIGH, such as 1 and 5")
    return _unquoted(match["low"]), _unquoted(match["high"])


def _comparison(operator: str) -> _Operator:
    return _Operator(
        f"value {operator} operand, in the column's type",
        _one,
        lambda operands, data_type: conditions.compare(operator, operands[0], data_type),
    )


def _bind_in(operands: tuple[str, ...], data_type: Any) -> Predicate:
    return conditions.either([conditions.compare("=", text, data_type) for text in operands])


def _bind_between(operands: tuple[str, ...], data_type: Any) -> Predicate:
    low = conditions.compare(">=", operands[0], data_type)
    return conditions.both(low, conditions.compare("<=", operands[1], data_type))


def _bind_like(operands: tuple[str, ...], data_type: Any) -> Predicate:
    return conditions.like(operands[0], data_type)


def _bind_regexp(operands: tuple[str, ...], data_type: Any) -> Predicate:
    return conditions.matches(operands[0], data_type)


def _pattern(rest: str) -> tuple[str, ...]:
    operands = _one(rest)
    conditions.check_pattern(operands[0])
    return operands


def _not(
    bind: Callable[[tuple[str, ...], Any], Predicate],
) -> Callable[[tuple[str, ...], Any], Predicate]:
    return lambda operands, data_type: conditions.negate(bind(operands, data_type))


_OPERATORS: dict[str, _Operator] = {
    **{operator: _comparison(operator) for operator in (">", ">=", "<", "<=", "=", "!=")},
    "like": _Operator("the text matches a LIKE pattern (% and _)", _one, _bind_like),
    "not like": _Operator("the text does not match a LIKE pattern", _one, _not(_bind_like)),
    "in": _Operator("equals one of (a, b, ...)", _several, _bind_in),
    "not in": _Operator("equals none of (a, b, ...)", _several, _not(_bind_in)),
    "between": _Operator("LOW and HIGH, both included", _pair, _bind_between),
    "not between": _Operator("outside of LOW and HIGH", _pair, _not(_bind_between)),
    "regexp": _Operator("the regular expression (RE2) is found", _pattern, _bind_regexp),
    "not regexp": _Operator("the regular expression is not found", _pattern, _not(_bind_regexp)),
    "is null": _Operator("is NULL", _none, lambda _operands, _type: conditions.is_null),
    "is not null": _Operator("is not NULL", _none, lambda _operands, _type: conditions.is_not_null),
}


def _split(text: str) -> tuple[str, str]:
    """The operator in its canonical spelling and what follows; ValueError names an unknown one."""
    match = _OPERATOR.match(text)
    word = " ".join((match["op"] if match else text.strip()).lower().split())
    operator = _ALIASES.get(word, word)
    if match is None or operator not in _OPERATORS:
        raise ValueError(f"unknown operator {word!r}; known: {', '.join(_OPERATORS)}")
    return operator, text[match.end() :]


def parse(text: str) -> Validator:
    """One condition; ValueError says what is wrong with it."""
    operator, rest = _split(text)
    try:
        operands = _OPERATORS[operator].operands(rest)
    except ValueError as error:
        raise ValueError(f"{operator}: {error}") from None
    return Validator(text.strip(), operator, operands)


def parse_all(texts: Sequence[str]) -> tuple[Validator, ...]:
    """The conditions of one column; ValueError says which one is wrong.

    Exchangis clients also send operator and operand as two words of the list, `["like", "a%"]`:
    a word that is an operator alone takes the next one as its operand.
    """
    found: list[Validator] = []
    words = iter(texts)
    for word in words:
        text = word
        operator, rest = _split(text)
        if not rest.strip() and not operator.startswith("is "):
            text = f"{text} {next(words, '')}"
        found.append(parse(text))
    return tuple(found)


def validators() -> list[dict[str, str]]:
    """Every operator with its description, for API and documentation."""
    return [{"name": name, "description": op.description} for name, op in _OPERATORS.items()]
