"""Reading tests/definitions/lineage.txt."""

from pathlib import Path

import dagster as dg


def asset_keys() -> list[dg.AssetKey]:
    """Keys of every asset on record."""
    lines = Path(__file__).with_name("lineage.txt").read_text().splitlines()
    return [dg.AssetKey(line.split()[1].split("/")) for line in lines if line.startswith("asset ")]
