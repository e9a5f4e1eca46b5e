from fraud_pipelines.features.dictionary import render
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.settings import PROJECT_ROOT

PATH = PROJECT_ROOT / "docs" / "data-dictionary.md"


def test_the_committed_page_is_that_of_the_spec():
    assert PATH.read_text(encoding="utf-8") == render(load_spec()), "The spec has changed. Run: make dictionary"


def test_every_feature_has_a_row_with_its_meaning():
    page = render(load_spec())
    for feature in load_spec().features:
        assert f"| `{feature.name}` | {feature.meaning} |" in page
