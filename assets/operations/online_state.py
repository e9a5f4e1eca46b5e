"""Recent history of every card and merchant, pushed from the warehouse into the online store."""

from datetime import datetime

import dagster as dg

from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.online_store.state import Reach
from fraud_pipelines.online_store.warehouse_state import end_of_data, hash_state, read_state
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.resources import OnlineStoreResource, WarehouseResource


class OnlineStateConfig(dg.Config):
    """Which moment the store shall know of."""

    as_of: str | None = None
    """ISO time, UTC, exclusive: nothing that happened or became known then or later goes in.

    Default: just after the last transaction."""


@dg.asset(
    key=keys.ONLINE_STATE,
    group_name="operations",
    deps=[keys.TRANSACTIONS, keys.LABELS],
    kinds={"python"},
    owners=["team:fraud-models"],
    tags={"pii": "true"},
    pool="warehouse",
)
def online_state(
    context: dg.AssetExecutionContext,
    config: OnlineStateConfig,
    warehouse: WarehouseResource,
    online_store: OnlineStoreResource,
) -> dg.MaterializeResult:
    """One row per recent transaction and label arrival, by card and merchant: what the scoring service reads.

    Reaches back as far as a feature of the spec can see and two days more, for late events; never less than before,
    because the model in service may be of an earlier spec with longer windows. What the warehouse said before is
    replaced in one transaction; what only the service has recorded stays until the warehouse holds it, too.
    Materializing it again changes nothing. `data_hash` covers the warehouse's rows that went in.
    """
    source, spec = warehouse.open(), load_spec()
    as_of = datetime.fromisoformat(config.as_of) if config.as_of else end_of_data(source)
    store = online_store.open()
    try:
        reach = Reach.of(spec).widened(store.reach())
        transactions, labels = read_state(source, spec, as_of, reach=reach)
        store.rebuild(transactions, labels, as_of, reach=reach)
        sizes = store.sizes()
    finally:
        store.close()
    context.log.info(f"Online state as of {as_of}: {sizes}")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(sizes.values()),
            "transactions": sizes["transactions"],
            "label_arrivals": sizes["label_arrivals"],
            "as_of": as_of.isoformat(sep=" "),
            "reach": str(reach),
            "data_hash": hash_state(transactions, labels),
        }
    )
