from fraud_pipelines.features.dictionary import FAMILIES, KNOWN, render
from fraud_pipelines.features.spec import OF_LABELS, TRANSACTION_VALUES, WINDOW_MEASURES, load_spec, parse_spec
from fraud_pipelines.reasons import FALLBACK_REASONS
from fraud_pipelines.settings import PROJECT_ROOT

PATH = PROJECT_ROOT / "docs" / "data-dictionary.md"
PAIRS = [("value", of) for of in TRANSACTION_VALUES] + [
    (measure, of) for measure, choices in WINDOW_MEASURES.items() for of in choices
]


def lines_of(page, heading):
    """Lines below a heading, up to the next one of any level."""
    lines = page.splitlines()
    start = lines.index(heading) + 1
    length = next((n for n, line in enumerate(lines[start:]) if line.startswith("#")), None)
    return lines[start:] if length is None else lines[start : start + length]


def test_the_committed_page_is_that_of_the_spec():
    assert PATH.read_text(encoding="utf-8") == render(load_spec()), "The spec has changed. Run: make dictionary"


def test_every_measure_that_a_spec_may_name_is_explained_once():
    explained = [pair for pairs in FAMILIES.values() for pair in pairs]
    assert sorted(explained) == sorted(PAIRS)


def test_what_a_measure_looks_at_agrees_with_the_spec():
    of_labels = {pair for pairs in FAMILIES.values() for pair, (looks_at, _) in pairs.items() if looks_at == KNOWN}
    assert of_labels == {pair for pair in PAIRS if pair[1] in OF_LABELS}


def test_every_feature_has_one_row_with_its_meaning():
    page = render(load_spec())
    for feature in load_spec().features:
        assert page.count(f"| `{feature.name}` |") == 1
        assert f"| `{feature.name}` | {feature.meaning} |" in page


def test_a_row_says_measure_window_unit_type_null_rule_and_reason():
    page = render(load_spec())
    assert (
        "| `card_is_new_device_30d` | 1 when the card was not used with this device in the 30 days before, else 0; "
        "missing when the device is not known. | `is_new` of `device` | 30d | flag | bigint | missing | "
        "`DEVICE_FOR_CARD` |"
    ) in lines_of(page, "### Variety, new and changed")
    labels = [line for line in lines_of(page, "### What labels say") if "_label_count_30d" in line]
    assert labels[0].endswith("| `count` of `labels` | 30d | labels | bigint | 0 | `KNOWN_OUTCOMES_ON_CARD` |")


def test_the_measures_in_use_are_explained_below():
    explained = lines_of(render(load_spec()), "## Measures")
    for feature in load_spec().features:
        (line,) = [line for line in explained if line.startswith(f"| `{feature.measure}` of `{feature.of}` |")]
        assert line.count("|") == 4
        assert line.endswith(". |")


def test_every_reason_is_listed_once_with_its_words():
    page = render(load_spec())
    listed = lines_of(page, "## Reasons")
    for reason in load_spec().reasons:
        assert listed.count(f"| `{reason.code}` | {reason.words} | {reason.meaning} |") == 1
    assert len([line for line in listed if line.startswith("| `")]) == len(load_spec().reasons)
    of_rules = [line for line in lines_of(page, "### When no model decides") if line.startswith("| `")]
    assert len(of_rules) == len(FALLBACK_REASONS)
    assert (
        "| `model_failed` | The model could not score this transaction: a person must look | "
        "The champion failed on this transaction; the service's log has the error. |"
    ) in of_rules


def test_what_large_means_is_the_specs_own_number():
    text = load_spec().text.replace("baseline: 30d, limit: 2.5, at_least: 3", "baseline: 36h, limit: 4, at_least: 7")
    page = " ".join(render(parse_spec(text)).split())
    assert "in the 36 hours before it; it takes at least 7 transactions" in page
    assert "**large** when its own ratio is above 4.0." in page


def test_a_spec_without_large_amounts_has_no_word_about_them():
    text = """
models:
  - name: transaction_features
    columns:
      - name: card_count_1h
        data_type: bigint
        description: Transactions | of the card in the hour before.
        config: {meta: {entity: card, measure: count, of: transactions, window: 1h, resolution: event,
          unit: transactions, when_empty: zero, reason: Number of payments}}
"""
    page = render(parse_spec(text))
    assert "own ratio" not in page
    assert "## The transaction itself" not in page
    assert "| `card_count_1h` | Transactions \\| of the card in the hour before. |" in page
