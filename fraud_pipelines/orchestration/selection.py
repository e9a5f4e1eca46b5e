"""From the words a person types to assets: a stage (`features`), or an asset (`monitoring/drift`)."""

from typing import Any

import dagster as dg

from fraud_pipelines.errors import SettingInvalid


def select(words: list[str]) -> list[dg.AssetKey]:
    """Assets named by `words`, in the graph's own order.

    Raises:
        SettingInvalid: a word names neither a stage nor an asset; the message lists what there is.
    """
    graph = _graph()
    known = [key for key in graph.toposorted_asset_keys if graph.get(key).is_materializable]
    chosen: set[dg.AssetKey] = set()
    for word in words:
        parts = word.strip("/").split("/")
        matches = {key for key in known if list(key.path[: len(parts)]) == parts}
        if parts == ["features"]:
            matches |= {key for key in known if key.path[0] == "staging"}
        if not matches:
            names = ", ".join(sorted(key.to_user_string() for key in known))
            raise SettingInvalid(f"No stage or asset is called {word!r}. There are: {names}.")
        chosen |= matches
    return [key for key in known if key in chosen]


def needs_days(keys: list[dg.AssetKey]) -> bool:
    """Whether any of the assets is partitioned by day."""
    graph = _graph()
    return any(graph.get(key).partitions_def is not None for key in keys)


def _graph() -> Any:
    from fraud_pipelines.definitions import defs

    return defs.resolve_asset_graph()
