"""A model as data: one folder of an XGBoost file, JSON, YAML and Parquet, with digests that are checked at load.

    manifest.json           format number and SHA-256 of every other file
    model.ubj               the booster, in XGBoost's own format
    model.json              what the model is: features, thresholds and what they were chosen with, calibration,
                            windows, hashes, metrics, environment
    feature_spec.yml        the feature spec it was trained with
    reference.parquet       a sample of training feature rows without identifiers: the reference of drift

Nothing here can run code when loaded (no pickle). The content holds no clock reading, so the same data, seed and
code give the same digest.
"""

import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fraud_pipelines.errors import BundleCorrupt, ContractBroken
from fraud_pipelines.features.spec import FeatureSpec, parse_spec
from fraud_pipelines.models.policy import PolicyBasis, Thresholds
from fraud_pipelines.models.splits import TimeSplit

if TYPE_CHECKING:
    import xgboost

FORMAT = 1
MANIFEST, BOOSTER, MODEL, SPEC, REFERENCE = (
    "manifest.json",
    "model.ubj",
    "model.json",
    "feature_spec.yml",
    "reference.parquet",
)
FILES = (BOOSTER, MODEL, SPEC, REFERENCE)
MOST_REFERENCE_ROWS = 5_000
ENVIRONMENT_PACKAGES = ("fraud-pipelines", "xgboost", "numpy", "pandas", "pyarrow", "scikit-learn", "shap")


@dataclass(frozen=True)
class Calibration:
    """Platt scaling: probability = sigmoid(slope * margin + intercept). The slope is positive, so ranks stay.

    Raises:
        ContractBroken: the slope is not positive, or a number is not finite.
    """

    slope: float = 1.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.slope) and np.isfinite(self.intercept) and self.slope > 0):
            raise ContractBroken(
                f"Calibration: expected a positive slope and a finite intercept, found {self.slope}, {self.intercept}."
            )


@dataclass(frozen=True)
class Bundle:
    """One trained model with all that scoring, explaining and auditing it needs.

    `parameters` are the training parameters, `metrics` those on validation, `row_counts` the rows and frauds behind
    them; `policy` says what the thresholds were chosen with (None without validation days, and in older bundles).
    Matrices have shape (n, f) in the order of `feature_names`, missing values as NaN.
    """

    booster_bytes: bytes
    spec_text: str
    feature_names: tuple[str, ...]
    spec_hash: str
    thresholds: Thresholds
    calibration: Calibration
    split: TimeSplit
    data_hash: str
    parameters: dict[str, Any]
    metrics: dict[str, float | None]
    row_counts: dict[str, int]
    reference: pd.DataFrame = field(repr=False)
    code_version: str = ""
    policy: PolicyBasis | None = None
    environment: dict[str, str] = field(default_factory=lambda: current_environment())

    def __post_init__(self) -> None:
        if tuple(self.reference.columns) != self.feature_names:
            raise ContractBroken(
                "Bundle: the reference sample must hold exactly the features, in their order; "
                f"expected {list(self.feature_names)}, found {list(self.reference.columns)}."
            )

    # Scoring

    @cached_property
    def booster(self) -> "xgboost.Booster":
        """The XGBoost model, on one thread: two threads collapse when the cores are busy."""
        import xgboost

        booster = xgboost.Booster({"nthread": 1})
        booster.load_model(bytearray(self.booster_bytes))
        booster.set_param({"nthread": 1})
        return booster

    def margin(self, matrix: np.ndarray) -> np.ndarray:
        """Calibrated log-odds of fraud, shape (n,), natural log."""
        values = self._checked(matrix)
        if len(values) == 0:
            return np.empty(0)
        raw = self.booster.inplace_predict(values, predict_type="margin").astype(np.float64)
        return self.calibration.slope * raw + self.calibration.intercept

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        """Fraud probability in (0, 1), shape (n,)."""
        return 1.0 / (1.0 + np.exp(-self.margin(matrix)))

    def contributions(self, matrix: np.ndarray) -> np.ndarray:
        """Exact SHAP values of the calibrated log-odds, shape (n, f + 1); the last column is the base value.

        Each row sums to `margin` of that row within single precision.
        """
        import xgboost

        values = self._checked(matrix)
        if len(values) == 0:
            return np.empty((0, len(self.feature_names) + 1))
        raw = self.booster.predict(xgboost.DMatrix(values, nthread=1), pred_contribs=True).astype(np.float64)
        scaled = self.calibration.slope * raw
        scaled[:, -1] += self.calibration.intercept
        return scaled

    def importance(self) -> dict[str, float]:
        """Share of the total gain per feature, largest first; features never used are 0."""
        gains = self.booster.get_score(importance_type="total_gain")
        total = sum(gains.values()) or 1.0
        shares = {name: float(gains.get(f"f{index}", 0.0)) / total for index, name in enumerate(self.feature_names)}
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    @cached_property
    def spec(self) -> FeatureSpec:
        """The feature spec the model was trained with."""
        return parse_spec(self.spec_text)

    @property
    def label_delay_days(self) -> int:
        """Days after which this model's training took labels for known: how long to wait before judging it."""
        return self.split.label_delay_days

    def _checked(self, matrix: np.ndarray) -> np.ndarray:
        values = np.asarray(matrix)
        if values.ndim != 2 or values.shape[1] != len(self.feature_names):
            raise ContractBroken(
                f"Bundle: expected a matrix of shape (n, {len(self.feature_names)}), found {values.shape}."
            )
        return values

    # Keeping

    @cached_property
    def contents(self) -> dict[str, bytes]:
        """Bytes of every file of the bundle, manifest included."""
        model = {
            "format": FORMAT,
            "feature_names": list(self.feature_names),
            "spec_hash": self.spec_hash,
            "thresholds": asdict(self.thresholds),
            "policy": self.policy.as_dict() if self.policy else None,
            "calibration": asdict(self.calibration),
            "split": self.split.as_dict(),
            "data_hash": self.data_hash,
            "parameters": self.parameters,
            "metrics": self.metrics,
            "row_counts": self.row_counts,
            "code_version": self.code_version,
            "environment": self.environment,
        }
        files = {
            BOOSTER: self.booster_bytes,
            MODEL: _json_bytes(model),
            SPEC: self.spec_text.encode(),
            REFERENCE: _parquet_bytes(self.reference),
        }
        manifest = {"format": FORMAT, "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}
        return {MANIFEST: _json_bytes(manifest), **files}

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, and so of everything."""
        return hashlib.sha256(self.contents[MANIFEST]).hexdigest()

    def save(self, folder: Path) -> Path:
        """Write the bundle to `folder` in one step: a reader sees the old folder, the new one, or none."""
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for name, data in self.contents.items():
                with open(staging / name, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            staging.chmod(0o755)
            if folder.exists():
                shutil.rmtree(folder)
            os.rename(staging, folder)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        return folder

    @classmethod
    def load(cls, folder: Path, *, digest: str | None = None) -> "Bundle":
        """Read a bundle, checking every file against the manifest before any of them is parsed.

        Args:
            folder: what `save` wrote.
            digest: the bundle digest expected, from the registry or a build record.
        Raises:
            BundleCorrupt: a file is missing or differs, the digest is another, or the format is unknown.
        """
        folder = Path(folder)
        manifest_bytes = _read(folder, MANIFEST)
        found = hashlib.sha256(manifest_bytes).hexdigest()
        if digest is not None and digest != found:
            raise BundleCorrupt(f"{folder}: expected bundle digest {digest}, found {found}. {_AGAIN}")
        manifest = _parsed(folder, MANIFEST, manifest_bytes)
        if manifest.get("format") != FORMAT or set(manifest.get("files", {})) != set(FILES):
            raise BundleCorrupt(
                f"{folder}/{MANIFEST}: expected format {FORMAT} with the files {list(FILES)}, found format "
                f"{manifest.get('format')} with {list(manifest.get('files', {}))}. {_AGAIN}"
            )
        files = {name: _read(folder, name) for name in FILES}
        for name, data in files.items():
            actual = hashlib.sha256(data).hexdigest()
            if actual != manifest["files"][name]:
                raise BundleCorrupt(
                    f"{folder}/{name}: expected SHA-256 {manifest['files'][name]}, found {actual}. {_AGAIN}"
                )
        model = _parsed(folder, MODEL, files[MODEL])
        bundle = cls(
            booster_bytes=files[BOOSTER],
            spec_text=files[SPEC].decode(),
            feature_names=tuple(model["feature_names"]),
            spec_hash=model["spec_hash"],
            thresholds=Thresholds(**model["thresholds"]),
            calibration=Calibration(**model["calibration"]),
            split=TimeSplit.from_dict(model["split"]),
            data_hash=model["data_hash"],
            parameters=model["parameters"],
            metrics=model["metrics"],
            row_counts=model["row_counts"],
            reference=pd.read_parquet(io.BytesIO(files[REFERENCE])),
            code_version=model["code_version"],
            policy=PolicyBasis.from_dict(model["policy"]) if model.get("policy") else None,
            environment=model["environment"],
        )
        # The bytes as read: Parquet written again by another version would give another digest.
        bundle.__dict__["contents"] = {MANIFEST: manifest_bytes, **files}
        return bundle


_AGAIN = "Fetch the version from the registry again, or train it again: fraud train"


def current_environment() -> dict[str, str]:
    """Versions of Python and of the packages that a model's numbers depend on."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in ENVIRONMENT_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _parquet_bytes(frame: pd.DataFrame) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None), buffer)
    return buffer.getvalue()


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise BundleCorrupt(f"{folder}/{name} cannot be read: {error.strerror}. {_AGAIN}") from error


def _parsed(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise BundleCorrupt(f"{folder}/{name} is not JSON: {error}. {_AGAIN}") from error
    if not isinstance(value, dict):
        raise BundleCorrupt(f"{folder}/{name}: expected a JSON object, found {type(value).__name__}. {_AGAIN}")
    return value
