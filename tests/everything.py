"""A spec with everything that a spec may ask for, and copies of the dbt project that have another spec."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from fraud_pipelines.features.spec import (
    CARD_ONLY,
    MERCHANT_ONLY,
    MODEL,
    NEVER_EMPTY,
    SPEC_PATH,
    WHOLE_MEASURES,
    WINDOW_MEASURES,
    FeatureSpec,
    load_spec,
    parse_spec,
)
from tests.dbt_runs import PROJECT


def entry(entity: str, measure: str, of: str, window: str, when_empty: str = "missing") -> dict:
    """One feature as the spec file has it, named <entity>_<measure>_<of>_<window>."""
    return {
        "name": f"{entity}_{measure}_{of}_{window}",
        "data_type": "bigint" if measure in WHOLE_MEASURES else "double precision",
        "description": f"{measure} of {of}.",
        "config": {
            "meta": {
                "entity": entity,
                "measure": measure,
                "of": of,
                "window": window,
                "resolution": "event",
                "unit": "any",
                "when_empty": when_empty,
                "reason": "AMOUNT",  # whatever is in the catalogue
            }
        },
    }


def _everything() -> FeatureSpec:
    document = yaml.safe_load(load_spec().text)
    model = next(model for model in document["models"] if model["name"] == MODEL)
    own = [
        c for c in model["columns"] if c.get("config", {}).get("meta", {}).get("entity", "transaction") == "transaction"
    ]
    # Two windows each: one of a length of its own, and empty is 0 in one of them and null in the other.
    model["columns"] = own + [
        entry(entity, measure, of, window, "zero" if measure in NEVER_EMPTY else when_empty)
        for entity, foreign in (("card", MERCHANT_ONLY), ("merchant", CARD_ONLY))
        for measure, choices in WINDOW_MEASURES.items()
        for of in choices
        if of not in foreign
        for window, when_empty in (("6h", "zero"), ("30d", "missing"))
    ]
    return parse_spec(yaml.safe_dump(document, allow_unicode=True, sort_keys=False))


EVERYTHING = _everything()


def project_with(spec: FeatureSpec, folder: Path) -> Path:
    """A copy of the dbt project whose features are those of `spec`."""
    copy = folder / "dbt_project"
    shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns("target", "logs"))
    (copy / SPEC_PATH.relative_to(PROJECT)).write_text(spec.text, encoding="utf-8")
    return copy
