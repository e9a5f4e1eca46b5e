"""The data dictionary: the feature spec as a Markdown page, which `fraud dictionary` prints."""

from __future__ import annotations

from fraud_pipelines.features.spec import Feature, FeatureSpec

_HEAD = """# Data dictionary

Generated from the feature spec, `dbt_project/models/features/transaction_features.yml`.
To change it, change the spec and run `make dictionary`.

`features.transaction_features` has one row per transaction, as of its event time t. A transaction counts in a window of
length w when its age is strictly between 0 and w, so neither the present nor anything at the same microsecond counts.
A label counts when it became known at an age of at least 0 and below w: a fraud nobody has reported yet reaches no
feature. Windows resolve to the single event. Missing values are null. One unit of currency is 100 minor units.
"""

_ENTITIES = {
    "transaction": "The transaction itself",
    "card": "History of the card",
    "merchant": "History of the merchant",
}


def render(spec: FeatureSpec) -> str:
    """The page for a spec, ending with a newline."""
    parts = [_HEAD, f"{len(spec.features)} features; definition `{spec.hash[:16]}`."]
    for entity, title in _ENTITIES.items():
        features = [feature for feature in spec.features if feature.entity == entity]
        if features:
            parts.append(f"\n## {title}\n")
            parts.append("| feature | meaning | measure | window | unit | type | without history |")
            parts.append("|---|---|---|---|---|---|---|")
            parts.extend(_row(feature) for feature in features)
    return "\n".join(parts) + "\n"


def _row(feature: Feature) -> str:
    measure = feature.of if feature.measure == "value" else f"{feature.measure} of {feature.of}"
    empty = {"zero": "0", "missing": "missing"}[feature.when_empty] if feature.window else ""
    cells = [
        f"`{feature.name}`",
        feature.meaning,
        measure.replace("_", " "),
        feature.window or "",
        feature.unit,
        feature.data_type,
        empty,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
