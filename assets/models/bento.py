"""The champion, packed to be served."""

import dagster as dg

from fraud_pipelines.errors import NoChampion
from fraud_pipelines.models.bento import build_bento
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.resources import LedgerResource, RegistryResource
from fraud_pipelines.settings import load_settings


@dg.asset(
    key=keys.BENTO,
    group_name="models",
    deps=[keys.CHAMPION],
    kinds={"python", "bentoml"},
    owners=["team:fraud-models"],
)
def bento(
    context: dg.AssetExecutionContext, ledger: LedgerResource, registry: RegistryResource
) -> dg.MaterializeResult:
    """One Bento per champion and code of the service: everything `fraud serve` needs in one folder.

    Holds the model's bundle with its digests, the feature spec the model was trained with, and the service's code; no
    data, no settings and no secret. The same champion and code give the same tag, and are built once.
    """
    version = ledger.open().champion_at()
    if version is None:
        raise NoChampion("No model version has been promoted, so there is no Bento to build. Run: fraud train")
    built = build_bento(registry.open().download(version), version, bentoml_home=load_settings().bentoml_home)
    context.log.info("Built %s in %s", built.tag, built.path)
    return dg.MaterializeResult(
        metadata={
            "tag": built.tag,
            "path": dg.MetadataValue.path(str(built.path)),
            "size_bytes": built.size_bytes,
            "model_version": version,
            "data_hash": built.bundle_digest,
        }
    )
