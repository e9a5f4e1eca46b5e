"""How a rebuild of the online store on PostgreSQL finds what the warehouse says differently, and writes only that."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from fraud_pipelines.online_store.state import Reach, Table

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def fill_temporary(cursor: Any, table: Table, rows: Sequence[tuple]) -> None:
    """Temporary table new_*: what the warehouse says now."""
    columns = ", ".join(table.columns)
    cursor.execute(
        f"create temporary table new_{table.name} on commit drop as "
        f"select {columns} from online_store.{table.name} with no data"
    )
    text = io.StringIO("".join("\t".join(map(_written, row)) + "\n" for row in rows))
    cursor.copy_expert(f"copy new_{table.name} ({columns}) from stdin", text)
    cursor.execute(f"analyze new_{table.name}")


def find_differences(cursor: Any, table: Table, as_of_us: int, reach: Reach) -> None:
    """Temporary fresh_*: rows of new_* that the store lacks; gone_*: identities of rows that have to go."""
    name, identity = table.name, ", ".join(table.identity)
    same_key = " and ".join(f"o.{column} = n.{column}" for column in table.key)
    same_rest = " and ".join(
        f"o.{column} is not distinct from n.{column}" for column in table.columns if column not in table.key
    )
    cursor.execute(
        f"create temporary table fresh_{name} on commit drop as select * from new_{name} n where not exists "
        f"(select from online_store.{name} o where {same_key} and {same_rest} and o.from_warehouse = 1)"
    )
    cursor.execute(
        f"create temporary table gone_{name} on commit drop as select {identity}, {table.time}, from_warehouse "
        f"from online_store.{name} o where {table.time} <= %s or (from_warehouse = 1 and {table.time} < %s "
        f"and not exists (select from new_{name} n where {same_key}))",
        (reach.horizon_us(table, as_of_us), as_of_us),
    )
    cursor.execute(f"analyze fresh_{name}")
    cursor.execute(f"analyze gone_{name}")


def apply_differences(cursor: Any, table: Table) -> None:
    """Write them, which is short: most rows of the day before are the same."""
    name, columns, identity = table.name, ", ".join(table.columns), ", ".join(table.identity)
    same = " and ".join(f"o.{column} = g.{column}" for column in (*table.identity, table.time, "from_warehouse"))
    cursor.execute(f"delete from online_store.{name} o using gone_{name} g where {same}")
    # The warehouse's row takes the place of the one that serving recorded, even under another card or time. In order
    # of the key, so that a card's rows lie beside each other.
    cursor.execute(
        f"insert into online_store.{name} ({columns}, from_warehouse) select {columns}, 1 from fresh_{name} "
        f"order by {', '.join(table.key)} on conflict ({identity}) do update "
        f"set {', '.join(f'{column} = excluded.{column}' for column in (*table.columns, 'from_warehouse'))}"
    )


def _written(value: Any) -> str:
    """A value as COPY reads it; a double by its shortest text that reads back the same."""
    if value is None:
        return "\\N"
    return value.translate(_ESCAPES) if isinstance(value, str) else repr(value)
