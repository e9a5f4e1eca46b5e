"""What Dagster stores and shows of the definitions holds no secret."""

import subprocess
import sys
import textwrap

from tests.installation import Installation


def test_no_password_of_a_store_is_in_what_dagster_serializes(tmp_path):
    secret = "s3cr3t-passw0rd"
    url = f"postgresql+psycopg2://fraud:{secret}@db.example:5432"
    installation = Installation(
        tmp_path,
        {
            "FRAUD_WAREHOUSE_URL": f"{url}/warehouse",
            "FRAUD_ONLINE_STORE_URL": f"{url}/online_store",
            "FRAUD_REGISTRY_URL": f"{url}/registry",
            "FRAUD_TOKEN_KEY": "secret-token-key-0123456789abcdef0123456789",
            "FRAUD_START_DATE": "2026-01-01",
        },
    )
    program = textwrap.dedent("""
        from dagster._core.remote_representation.external_data import RepositorySnap
        from dagster._serdes import serialize_value
        from fraud_pipelines.definitions import defs

        print(serialize_value(RepositorySnap.from_def(defs.get_repository_def())))
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], env=installation.environment, capture_output=True, text=True, check=True
    )
    assert "transaction_features" in done.stdout
    assert secret not in done.stdout
    assert "secret-token-key" not in done.stdout
