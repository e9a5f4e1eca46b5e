"""Customer attributes on their way into raw.customers: for fairness only, never features. The first of each stays."""

from datetime import datetime

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fraud_pipelines import limits
from fraud_pipelines.errors import SourceInvalid
from fraud_pipelines.raw import expressions as sql
from fraud_pipelines.raw.contract import CUSTOMER_TEXTS, age_band_sql
from fraud_pipelines.raw.mapping import Mapping
from fraud_pipelines.raw.quarantine import QUARANTINE_SCHEMA, quarantined, unreadable_line
from fraud_pipelines.raw.source import SourceFile, column_names, read_batches
from fraud_pipelines.raw.tokens import contains_card_number, tokenize_column

_COLUMNS = ("customer_id", *CUSTOMER_TEXTS)


def customers_of_rows(rows: pa.Table) -> pa.Table:
    """One row per customer of a cleaned batch with any attribute: those of the customer's first row.

    Columns customer_id, age_band, gender, region.
    """
    with duckdb.connect() as connection:
        connection.register("cleaned", rows)
        return connection.sql(
            """
            select customer_id, arg_min(customer_age_band, source_row) as age_band,
                arg_min(customer_gender, source_row) as gender, arg_min(customer_region, source_row) as region
            from cleaned
            where customer_id is not null
                and coalesce(customer_age_band, customer_gender, customer_region) is not null
            group by customer_id order by customer_id
            """
        ).to_arrow_table()


def customers_of_file(
    file: SourceFile, mapping: Mapping, token_key: bytes, moment: datetime
) -> tuple[pa.Table, pa.Table]:
    """The customers of a file beside the transactions, and its rows that break the contract (QUARANTINE_SCHEMA).

    A birth date becomes the age band at `moment`, the last event of the load.

    Raises:
        SourceInvalid: the file has no column for the customer.
    """
    wanted = mapping.customers.columns if mapping.customers else {}
    names = column_names(file)
    theirs = {
        ours: found[0] for ours, options in wanted.items() if (found := [name for name in options if name in names])
    }
    if "customer_id" not in theirs:
        raise SourceInvalid(
            f"{file.path}: mapping {mapping.name} expects a column for customer_id "
            f"({' or '.join(wanted.get('customer_id', ()))}); found {', '.join(names)}."
        )
    positions = {ours: f"column_{place}" for place, ours in enumerate(theirs)}
    good, broken = [], []
    for batch in read_batches(file, list(dict.fromkeys(theirs.values()))):
        source = sql.readable(batch.rows.select(list(theirs.values())).rename_columns(list(positions.values())))
        with duckdb.connect() as connection:
            connection.register("batch", source.append_column("source_row", batch.row_numbers))
            staged = connection.sql(_query(positions, source.schema, moment)).to_arrow_table()
        rows, set_aside = _split(staged, list(theirs), file.name, mapping, token_key)
        good.append(rows)
        broken += [*set_aside, *(unreadable_line(file.name, line) for line in batch.malformed)]
    table = pa.concat_tables(good) if good else pa.table({name: pa.array([], pa.string()) for name in _COLUMNS})
    numbered = table.append_column("position", pa.array(range(table.num_rows), pa.int64()))
    first = numbered.group_by("customer_id").aggregate([("position", "min")])["position_min"]
    return table.take(first.sort()), pa.Table.from_pylist(broken, schema=QUARANTINE_SCHEMA)


def _query(positions: dict[str, str], schema: pa.Schema, moment: datetime) -> str:
    """One row per row of `batch`: our texts, the age band, and the reasons why it is broken ('' when good)."""
    types = {ours: schema.field(column).type for ours, column in positions.items()}
    texts = {
        ours: sql.text(column, types[ours], is_identifier=ours == "customer_id") for ours, column in positions.items()
    }
    rules = ["case when customer_id is null then 'customer_id: expected a value, found nothing' end"]
    for name in positions:
        if sql.is_text(types[name]):
            rules.append(
                f"case when {sql.unreadable(name)} then '{name}: expected readable UTF-8 text, found damage' end"
            )
            rules.append(
                f"case when length({name}) > {limits.LONGEST_TEXT} "
                f"then '{name}: expected at most {limits.LONGEST_TEXT} characters, found more' end"
            )
    band = "null"
    if "birth_date" in positions:
        band = age_band_sql("birth_date", f"timestamp '{moment}'")
        rules.append(
            f"case when birth_date is not null and ({band}) is null then 'birth_date: expected a date 0 to 120 years "
            f"before {moment:%Y-%m-%d}, found ' || {sql.shortened('birth_date')} end"
        )
    return f"""
        with source as (select source_row, {", ".join(f"{text} as {ours}" for ours, text in texts.items())} from batch)
        select *, cast({band} as varchar) as derived_band, {sql.joined_reasons(rules)} as reasons
        from source order by source_row
    """


def _split(
    staged: pa.Table, names: list[str], file_name: str, mapping: Mapping, token_key: bytes
) -> tuple[pa.Table, list[dict[str, object]]]:
    """The good rows in the columns of raw.customers, and the others for the quarantine."""
    guarded = [name for name in names if name != "birth_date" and name not in mapping.card_numbers]
    strays: dict[int, list[str]] = {}
    for name in guarded:
        for value, number in zip(staged[name].to_pylist(), staged["source_row"].to_pylist(), strict=True):
            if value is not None and len(value) >= 13 and contains_card_number(value):
                strays.setdefault(number, []).append(f"{name}: expected no card number, found one")
    is_stray = pc.is_in(staged["source_row"], pa.array(list(strays), pa.int64()))
    is_broken = pc.or_(pc.not_equal(staged["reasons"], ""), is_stray)
    if "customer_id" in mapping.card_numbers:
        position = staged.schema.get_field_index("customer_id")
        staged = staged.set_column(position, "customer_id", tokenize_column(staged["customer_id"], token_key))
    broken = []
    for row in staged.filter(is_broken).to_pylist():
        reasons = [reason for reason in (row["reasons"], *strays.get(row["source_row"], [])) if reason]
        values = {name: row[name] for name in names}
        broken.append(quarantined(file_name, row["source_row"], "; ".join(reasons), values))
    good = staged.filter(pc.invert(is_broken))
    band = good["age_band"] if "age_band" in names else good["derived_band"]
    absent = pa.nulls(good.num_rows, pa.string())
    columns = [good["customer_id"], band, *(good[name] if name in names else absent for name in ("gender", "region"))]
    return pa.table(dict(zip(_COLUMNS, columns, strict=True))), broken
