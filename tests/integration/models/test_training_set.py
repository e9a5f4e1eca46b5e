"""The training set is the same rows, bit for bit, from both warehouses."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.models.splits import TimeSplit
from fraud_pipelines.models.training_set import build_training_set, read_training_set, write_training_set
from fraud_pipelines.warehouse import open_warehouse
from tests.builders import fill_warehouse, label, payment

SPLIT = TimeSplit(datetime(2026, 1, 25), train_days=10, validation_days=3, test_days=4, label_delay_days=3)


def test_duckdb_and_postgres_give_the_same_hash(tmp_path: Path, fresh_postgres_url):
    rng = np.random.default_rng(3)
    payments, labels = [], []
    for number in range(800):
        moment = datetime(2026, 1, 1) + timedelta(minutes=int(rng.integers(0, 24 * 24 * 60)))
        card = f"c{rng.integers(0, 60)}"
        payments.append(payment(f"t{number}", str(moment), card_id=card, amount_minor=int(rng.integers(1, 90_000))))
        # One to five days late, sometimes corrected later: some labels miss their moment.
        known = moment + timedelta(hours=int(rng.integers(24, 120)))
        labels.append(label(f"t{number}", str(moment), str(known), is_fraud=bool(rng.random() < 0.1)))
        if rng.random() < 0.1:
            labels.append(label(f"t{number}", str(moment), str(known + timedelta(days=2)), is_fraud=False))
    built = []
    for url in (f"duckdb:///{tmp_path / 'warehouse.duckdb'}", fresh_postgres_url):
        warehouse = open_warehouse(url)
        fill_warehouse(warehouse, load_spec(), payments, labels)
        rows = build_training_set(warehouse, load_spec(), SPLIT)
        write_training_set(warehouse, rows)
        assert read_training_set(warehouse).data_hash == rows.data_hash
        built.append(rows)
    assert built[0].data_hash == built[1].data_hash
    assert built[0].unlabelled == built[1].unlabelled
    assert sum(built[0].unlabelled.values()) > 0
    assert built[0].frame["card_is_known_compromised"].any()
