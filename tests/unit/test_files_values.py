"""Values and names of the file connectors that need no file."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchangis.connectors.files import datasets
from exchangis.connectors.files import json as files_json
from exchangis.connectors.files import text as files_text
from exchangis.connectors.files import types as files_types
from exchangis.connectors.files.staging import natural
from exchangis.connectors.registry import connector


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("int64", pa.int64()),
        (" Decimal(12, 2) ", pa.decimal128(12, 2)),
        ("decimal(38)", pa.decimal128(38, 0)),
        ("decimal(76,30)", pa.decimal256(76, 30)),
        ("timestamptz", pa.timestamp("us", "UTC")),
    ],
)
def test_type_names_are_understood(name: str, kind: pa.DataType) -> None:
    assert files_types.parse_type(name) == kind


@pytest.mark.parametrize(
    "name", ["money", "decimal", "decimal(0)", "decimal(77,1)", "decimal(2,3)"]
)
def test_unknown_type_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match="known are decimal"):
        files_types.parse_type(name)


@given(st.lists(st.integers(-(10**40), 10**40).map(str), min_size=1))
def test_inferred_whole_numbers_print_as_they_were(texts: list[str]) -> None:
    found = files_types.Inference()
    for text in texts:
        found.look(pa.array([text]))
    parsed = files_types.from_text(pa.array(texts), found.type())
    assert files_text.to_text(parsed).to_pylist() == texts


@given(st.lists(st.from_regex(r"-?[0-9]{0,20}\.?[0-9]{0,20}(e-?[0-9]{1,3})?", fullmatch=True)))
def test_inferred_numbers_have_the_value_of_their_text(texts: list[str]) -> None:
    found = files_types.Inference()
    found.look(pa.array(texts, pa.string()))
    kind = found.type()
    parsed = files_types.from_text(pa.array(texts, pa.string()), kind).to_pylist()
    for text, value in zip(texts, parsed, strict=True):
        if isinstance(value, str):
            assert value == text
        elif isinstance(value, float):
            assert Decimal(repr(value)) == Decimal(text)
        else:
            assert Decimal(value) == Decimal(text)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_json_text_means_the_same_to_pythons_reader(value: object) -> None:
    text = files_json.encode(value)
    assert json.loads(text) == value
    assert files_json.encode(files_json.decode(text)) == text


def test_json_text_of_arrow_values() -> None:
    noon = dt.datetime(2024, 1, 31, 12, tzinfo=dt.timezone(dt.timedelta(hours=8)))
    assert files_json.encode(Decimal("1E-10")) == "0.0000000001"
    assert files_json.encode(noon) == '"2024-01-31T04:00:00.000000Z"'
    assert files_json.encode(b"\x00\xff") == '"AP8="'
    assert files_json.encode([("a", 1), ("b", None)]) == '{"a":1,"b":null}'
    assert files_json.encode([("a", 1), ("a", 2)]) == '[["a",1],["a",2]]'
    with pytest.raises(ValueError, match="nan"):
        files_json.encode([float("nan")])


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=40),
    st.integers(1, 20),
    st.integers(1, 2000),
)
def test_bounded_batches_hold_every_row_in_order(sizes: list[int], rows: int, size: int) -> None:
    batch = pa.RecordBatch.from_pydict({"t": ["x" * n for n in sizes]})
    found = list(datasets.bounded(batch, rows, size))
    assert pa.Table.from_batches(found).to_pydict() == batch.to_pydict()
    assert max(piece.num_rows for piece in found) <= rows
    assert all(piece.num_rows == 1 or piece.nbytes <= 2 * size for piece in found)


def test_splits_are_sorted_by_their_numbers() -> None:
    assert sorted(["s10", "s2", "x", "s1"], key=natural) == ["s1", "s2", "s10", "x"]


@pytest.mark.parametrize(("name", "type_id"), [("CSV", 30), ("JSONL", 31), ("PARQUET", 32)])
def test_file_connectors_are_found_by_name(name: str, type_id: int) -> None:
    found = connector(name)
    assert (found.name, found.type_id) == (name, type_id)
    assert found.capabilities.addressing == "uri"
    assert not found.capabilities.databases
