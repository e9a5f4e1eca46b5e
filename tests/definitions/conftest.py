import dagster as dg
import pytest


@pytest.fixture(scope="session")
def definitions() -> dg.Definitions:
    """The project's own definitions, as the code location loads them."""
    from fraud_pipelines.definitions import defs

    return defs
