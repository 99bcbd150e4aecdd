"""`job logs`: every line of a log once, also while it grows."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchangis.cli import logs
from exchangis.cli.client import Client
from exchangis.cli.logs import LogView, print_log


class Growing:
    """A log as the contract describes it, which gets lines between two calls."""

    def __init__(self, lines: list[str], growth: list[list[str]], page: int) -> None:
        self.lines = list(lines)
        self.growth = list(growth)
        self._most = page
        self.printed: list[str] = []

    def get(
        self, path: str, *, fromLine: int = 0, pageSize: int = 100, lastRows: int = 0,
        onlyKeywords: str | None = None, ignoreKeywords: str | None = None, **_: Any,
    ) -> dict[str, Any]:  # fmt: skip
        if lastRows:
            fromLine, pageSize = max(len(self.lines) - lastRows, 0), lastRows
        looked = self.lines[fromLine : fromLine + min(pageSize, self._most)]
        end = fromLine + len(looked) - 1
        done = not self.growth and end == len(self.lines) - 1
        kept = [
            line
            for line in looked
            if (not onlyKeywords or any(word in line for word in onlyKeywords.split(",")))
            and not (ignoreKeywords and any(w in line for w in ignoreKeywords.split(",")))
        ]
        if self.growth:
            self.lines += self.growth.pop(0)
        return {"endLine": end, "isEnd": done, "logs": {"all": "\n".join(kept)}}

    def read(self, view: LogView) -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logs, "say", lambda text: self.printed.extend(text.split("\n")))
            patch.setattr(logs, "_PAGE", self._most)
            print_log(cast(Client, self), view, pause=lambda _seconds: None)
        return self.printed


TEXTS = st.sampled_from(["INFO a", "WARN b", "ERROR c", "INFO d"])


@given(
    st.lists(TEXTS, max_size=30),
    st.lists(st.lists(TEXTS, max_size=7), max_size=12),
    st.integers(1, 9),
)
@settings(max_examples=200)
def test_following_a_growing_log_loses_and_doubles_nothing(
    lines: list[str], growth: list[list[str]], page: int
) -> None:
    everything = [*lines, *(line for part in growth for line in part)]
    numbered = [f"{n} {text}" for n, text in enumerate(everything)]
    start, rest = numbered[: len(lines)], numbered[len(lines) :]
    parts = []
    for part in growth:
        parts.append(rest[: len(part)])
        rest = rest[len(part) :]
    assert Growing(start, parts, page).read(LogView("x", follow=True)) == numbered
    assert Growing(start, parts, page).read(
        LogView("x", follow=True, only="INFO,ERROR", ignore="d")
    ) == [line for line in numbered if ("INFO" in line or "ERROR" in line) and "d" not in line]


@given(st.integers(0, 30), st.integers(0, 40), st.integers(1, 9))
def test_tail_starts_that_many_lines_before_the_end(lines: int, tail: int, page: int) -> None:
    numbered = [f"line {n}" for n in range(lines)]
    shown = Growing(numbered, [], page).read(LogView("x", tail=tail))
    assert shown == (numbered[-tail:] if tail else [])


def test_without_follow_the_command_ends_at_the_present_end() -> None:
    log = Growing(["one", "two"], [["three"]] * 5, 100)
    assert log.read(LogView("x")) == ["one", "two"]
