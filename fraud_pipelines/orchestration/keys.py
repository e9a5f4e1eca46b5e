"""Asset keys: `[stage, noun]`, the same words as group, folder, file and warehouse table. Spelled only here."""

from dagster import AssetKey

TRANSACTIONS = AssetKey(["raw", "transactions"])
LABELS = AssetKey(["raw", "labels"])
DECISIONS = AssetKey(["raw", "decisions"])
FEEDBACK = AssetKey(["raw", "feedback"])
CUSTOMERS = AssetKey(["raw", "customers"])

STG_TRANSACTIONS = AssetKey(["staging", "stg_transactions"])
STG_LABELS = AssetKey(["staging", "stg_labels"])
TRANSACTION_FEATURES = AssetKey(["features", "transaction_features"])

TRAINING_SET = AssetKey(["models", "training_set"])
TUNING = AssetKey(["models", "tuning"])
CANDIDATE = AssetKey(["models", "candidate"])
EVALUATION = AssetKey(["models", "evaluation"])
CHAMPION = AssetKey(["models", "champion"])
BENTO = AssetKey(["models", "bento"])

SCORES = AssetKey(["monitoring", "scores"])
DRIFT = AssetKey(["monitoring", "drift"])
PERFORMANCE = AssetKey(["monitoring", "performance"])
FAIRNESS = AssetKey(["monitoring", "fairness"])
PARITY = AssetKey(["monitoring", "parity"])

MODEL_CARD = AssetKey(["compliance", "model_card"])
COMPLIANCE_REPORT = AssetKey(["compliance", "compliance_report"])
EVIDENCE_INDEX = AssetKey(["compliance", "evidence_index"])

ONLINE_STATE = AssetKey(["operations", "online_state"])
