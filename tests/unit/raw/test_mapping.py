"""Mapping files: what ships, and what a wrong one says."""

from datetime import timedelta

import pytest
import yaml

from fraud_pipelines.errors import SourceInvalid
from fraud_pipelines.raw.mapping import load_mapping, parse_mapping, shipped_mappings

GOOD = {
    "columns": {"transaction_id": "id", "card_id": "pan", "merchant_id": "mid", "amount": "amt"},
    "constants": {"currency": "EUR"},
    "event_time": "ts",
}


def test_three_mappings_ship():
    assert shipped_mappings() == ("handbook", "simulator", "sparkov")


@pytest.mark.parametrize("name", ["handbook", "simulator", "sparkov"])
def test_each_shipped_mapping_loads(name):
    mapping = load_mapping(name)
    assert mapping.name == name
    assert "card_id" in mapping.card_numbers


def test_labels_of_handbook_and_sparkov_are_known_a_week_later():
    assert load_mapping("handbook").label.delay == timedelta(days=7)
    assert load_mapping("sparkov").label.delay == timedelta(days=7)


def test_the_simulator_says_itself_when_a_label_is_known():
    label = load_mapping("simulator").label
    assert (label.known_at.column, label.delay) == ("label_known_at", None)


def test_ones_own_mapping_by_path(tmp_path):
    path = tmp_path / "acme.yml"
    path.write_text(yaml.safe_dump(GOOD))
    mapping = load_mapping(path)
    assert mapping.name == "acme"
    assert mapping.columns["card_id"] == ("pan",)
    assert mapping.label is None


def test_an_unknown_name_lists_what_ships():
    with pytest.raises(SourceInvalid, match="handbook, simulator, sparkov"):
        load_mapping("handbok")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colums": {}}, "unknown colums"),
        ({"columns": {"transaction": "id"}}, "unknown transaction"),
        ({"constants": {}}, "currency required"),
        ({"constants": {"currency": "EUR", "amount": "1"}}, "amount given both"),
        ({"event_time": {"column": "ts", "format": "unix"}}, "found 'unix'"),
        ({"timezone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"amount_unit": "cents"}, "expected major or minor, found 'cents'"),
        ({"label": {"column": "f"}}, "delay_days"),
        ({"label": {"column": "f", "delay_days": -1}}, "found -1"),
        ({"card_numbers": ["amount"]}, "found \\['amount'\\]"),
        ({"customers": {"columns": {"gender": "sex"}}}, "customers.columns.customer_id"),
    ],
)
def test_a_wrong_mapping_is_told_what_is_wrong(change, message):
    with pytest.raises(SourceInvalid, match=message):
        parse_mapping(GOOD | change, "acme.yml")


def test_a_file_that_is_no_yaml(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text("columns: [")
    with pytest.raises(SourceInvalid, match="not readable as YAML"):
        load_mapping(path)
