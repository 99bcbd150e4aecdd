"""Masking, log lines, identifiers and back-off: the small rules that everything else leans on."""

from __future__ import annotations

import json
import re
import string
import time
import traceback
from urllib.parse import quote, quote_plus
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from exchangis.domain.ids import new_execution_id
from exchangis.domain.loglines import MAX_LINE, LogLevel, make_lines
from exchangis.domain.masking import MASK, Masker, is_secret_name, mask_mapping
from exchangis.domain.retry import RetryPolicy
from tests.services import PASSWORD

SECRETS = st.text(min_size=6, max_size=30).filter(lambda text: text.strip("*") == text)
AROUND = st.text("xyz ", max_size=10)


# --- masking --------------------------------------------------------------------------------


@given(secret=SECRETS, before=AROUND, after=AROUND)
def test_known_secret_shows_in_no_spelling(secret: str, before: str, after: str) -> None:
    try:
        spellings = [
            secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1],
            json.dumps(secret)[1:-1], secret.replace("'", "''"),
        ]  # fmt: skip
    except UnicodeEncodeError:
        assume(False)
    for spelling in spellings:
        assume(spelling not in f"<{before}|{MASK}|{after}>")
        assert spelling not in Masker([secret])(f"<{before}|{spelling}|{after}>")


def test_hostile_password_is_masked_wherever_it_is_written() -> None:
    mask = Masker([PASSWORD])
    for text in (
        f"login with {PASSWORD} refused",
        f"mysql://root:{quote(PASSWORD, safe='')}@db/x",
        f"params={json.dumps({'a': PASSWORD})}",
        f"{{'a': {PASSWORD!r}}}",
        "IDENTIFIED BY '" + PASSWORD.replace("\\", "\\\\").replace("'", "\\'") + "'",
    ):
        masked = mask(text)
        assert MASK in masked
        assert "s3cr3t" not in masked and "Pa55" not in masked


@pytest.mark.parametrize(
    "text",
    [
        "password=geheim",
        "sqoop.args.password=geheim",
        "PASSWORD : geheim",
        "{'db_password': 'geheim 1', 'x': 1}",
        '{"apiKey":"geheim"}',
        "access-key=geheim;x",
        "?user=a&passwd=geheim&b=c",
        "jdbc:mysql://ann:geheim@host:3306/db",
        "Authorization: Bearer geheim",
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str) -> None:
    masked = Masker()(text)
    assert "geheim" not in masked
    assert MASK in masked


@pytest.mark.parametrize(
    "text", ["rows read: 5", "SELECT a FROM b WHERE c = 1", "http://host:80/a@b", "compass north"]
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert Masker(["", "a", "ab"])(text) == text


@given(secrets=st.lists(SECRETS, max_size=3), text=st.text(max_size=80))
def test_masking_does_not_fail_on_any_text(secrets: list[str], text: str) -> None:
    assert isinstance(Masker(secrets)(text), str)


@pytest.mark.parametrize("part", ["a", "pass", "a.a.", "://", "://a:", 'password="', "Bearer "])
def test_masking_hostile_text_takes_time_in_proportion(part: str) -> None:
    mask = Masker(["geheim"])

    def seconds(length: int) -> float:
        text = part * (length // len(part))
        began = time.process_time()
        mask(text)
        return time.process_time() - began

    assert seconds(400_000) < 5  # a quadratic pattern takes minutes


def test_mapping_is_masked_at_any_depth() -> None:
    masked = mask_mapping(
        {"host": "h", "password": "p", "x": {"api_key": "k", "y": 1}, "token": ""}
    )
    assert masked == {"host": "h", "password": MASK, "x": {"api_key": MASK, "y": 1}, "token": ""}
    assert is_secret_name("sslPassword") and not is_secret_name("username")


# --- log lines ------------------------------------------------------------------------------


def _make(text: str, level: LogLevel = "INFO", at_ms: int = 1_700_000_000_123) -> list[str]:
    lines = make_lines(level, text, at_ms=at_ms, zone=ZoneInfo("Asia/Shanghai"), mask=str)
    assert {line.level for line in lines} == {level}
    return [line.text for line in lines]


def test_first_line_has_time_level_and_text() -> None:
    assert _make("hello", "WARN") == ["2023-11-15 06:13:20.123 WARN  hello"]


@given(text=st.text(max_size=200))
def test_stored_lines_hold_no_control_character_and_lose_no_text(text: str) -> None:
    lines = _make(text)
    assert lines
    for line in lines:
        assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202e]", line)
        assert line.encode()
        assert len(line.splitlines()) == 1
    letters = "".join(letter for letter in text if letter in string.ascii_letters)
    kept = "".join(lines)[len("2023-11-15 06:13:20.123 INFO  ") :]
    kept = re.sub(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4})", "", kept) if "\\" not in text else kept
    if "\\" not in text:
        assert "".join(letter for letter in kept if letter in string.ascii_letters) == letters


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r", "\v", "\f", "\x85", "\u2028"])
def test_line_breaks_make_continuation_lines(line_break: str) -> None:
    first, second = _make(f"a{line_break}2023-11-15 06:13:20.123 ERROR forged")
    assert first.endswith("INFO  a")
    assert second.startswith("    2023")


def test_escape_sequences_cannot_reach_a_terminal() -> None:
    assert _make("a\x1b[31mb\u202ec\ttab") == [
        "2023-11-15 06:13:20.123 INFO  a\\x1b[31mb\\u202ec\ttab"
    ]


def test_long_line_is_cut_and_says_so() -> None:
    (line,) = _make("x" * (MAX_LINE + 5))
    assert line.endswith(f"... (cut, {MAX_LINE + 5} characters)")
    assert len(line) < MAX_LINE + 100


def test_secret_with_a_line_break_in_it_is_masked_whole() -> None:
    lines = make_lines(
        "INFO", "key is one\ntwo.", at_ms=0, zone=ZoneInfo("UTC"), mask=Masker(["one\ntwo"])
    )
    assert [line.text for line in lines] == [f"1970-01-01 00:00:00.000 INFO  key is {MASK}."]


def test_traceback_is_one_message() -> None:
    try:
        raise ValueError("bad")
    except ValueError:
        lines = _make(traceback.format_exc(), "ERROR")
    assert lines[0].endswith("Traceback (most recent call last):")
    assert lines[-1] == "    ValueError: bad"


# --- identifiers and retry ------------------------------------------------------------------


def test_ids_are_unique_and_well_formed() -> None:
    ids = {new_execution_id() for _ in range(20_000)}
    assert len(ids) == 20_000
    assert all(re.fullmatch(r"[0-9a-hjkmnp-tv-z]{26}", value) for value in ids)


def test_ids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for moment in (1.0, 1.5, 2.0, 1_000_000.0, 1_700_000_000.123, 8_000_000_000.0):
        monkeypatch.setattr("exchangis.domain.ids.time.time", lambda moment=moment: moment)
        ids.append(new_execution_id())
    assert ids == sorted(ids)


@given(
    attempt=st.integers(1, 200),
    attempts=st.integers(1, 200),
    base=st.floats(0.001, 100),
    ceiling=st.floats(0.001, 1000),
    jitter=st.floats(0, 1),
)
def test_delay_follows_its_formula(
    attempt: int, attempts: int, base: float, ceiling: float, jitter: float
) -> None:
    policy = RetryPolicy(attempts, base, ceiling, jitter)
    assert policy.delay_after(attempt, retryable=False) is None
    delay = policy.delay_after(attempt, retryable=True)
    if attempt >= attempts:
        assert delay is None
        return
    full = min(base * 2.0 ** (attempt - 1), ceiling)
    assert delay is not None
    assert full * (1 - jitter) * 0.999999 <= delay <= full * 1.000001
