"""A model as data: one folder of ONNX, XGBoost, JSON, YAML and Parquet files, with digests that are checked at load.

    manifest.json           format number and SHA-256 of every other file
    model.onnx              the whole model: features to log-odds and probability (see additive_model.py)
    boosted_trees.ubj       its boosted trees, where it has any, in XGBoost's own format: for whoever works with XGBoost
    model.json              what the model is: features, members and their weights, thresholds and what they were chosen
                            with, bands of probabilities with observed rates, how it won, windows, hashes, metrics,
                            environment
    feature_spec.yml        the feature spec it was trained with
    reference.parquet       a sample of training feature rows without identifiers: the reference of drift
    baseline_NAME.onnx      simpler models of the same rows, which stand beside it in every evaluation

Nothing here can run code when loaded (no pickle). The content holds no clock reading, so the same data, seed and
code give the same digest.
"""

import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fraud_pipelines.errors import BundleCorrupt, ContractBroken
from fraud_pipelines.features.spec import FeatureSpec, parse_spec
from fraud_pipelines.models.additive_model import AdditiveModel
from fraud_pipelines.models.bands import Band
from fraud_pipelines.models.comparison import Comparison
from fraud_pipelines.models.onnx_graph import Compiled, from_onnx
from fraud_pipelines.models.policy import PolicyBasis, Thresholds
from fraud_pipelines.models.splits import TimeSplit
from fraud_pipelines.reasons import ANOMALY_SCORE

if TYPE_CHECKING:
    import pandas as pd

    from fraud_pipelines.models.explanation import FullReasons

FORMAT = 3
MANIFEST, GRAPH, BOOSTER, MODEL, SPEC, REFERENCE = (
    "manifest.json",
    "model.onnx",
    "boosted_trees.ubj",
    "model.json",
    "feature_spec.yml",
    "reference.parquet",
)
FILES = (GRAPH, MODEL, SPEC, REFERENCE)
_BASELINE = re.compile(r"baseline_([a-z_]+)\.onnx")
MOST_REFERENCE_ROWS = 5_000
ENVIRONMENT_PACKAGES = (
    *("fraud-pipelines", "xgboost", "onnx", "onnxruntime", "numpy", "pandas", "pyarrow", "scikit-learn", "shap"),
)


@dataclass(frozen=True)
class Bundle:
    """One trained model with all that scoring, explaining and auditing it needs.

    `contender` is the kind of model that won (`contenders.CONTENDERS`), `weights` how its members count, calibration
    included, and `comparison` how it won. `parameters` are the training parameters, `metrics` those on validation,
    `row_counts` the rows and frauds behind them; `policy` says what the thresholds were chosen with (None without
    validation days), `bands` what its probabilities were worth on those days. `baselines` are ONNX files by name.
    `reference` of a loaded bundle is read when first asked for: a service never asks, and so does without pandas.
    Matrices have shape (n, f) in the order of `feature_names`, missing values as NaN.
    """

    model: AdditiveModel = field(repr=False)
    contender: str
    weights: dict[str, float]
    spec_text: str
    feature_names: tuple[str, ...]
    spec_hash: str
    thresholds: Thresholds
    split: TimeSplit
    data_hash: str
    parameters: dict[str, Any]
    metrics: dict[str, float | None]
    row_counts: dict[str, int]
    reference: "pd.DataFrame" = field(repr=False)
    code_version: str = ""
    policy: PolicyBasis | None = None
    comparison: Comparison | None = None
    bands: tuple[Band, ...] = ()
    booster_bytes: bytes | None = field(default=None, repr=False)
    baselines: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    environment: dict[str, str] = field(default_factory=lambda: current_environment())

    def __post_init__(self) -> None:
        given = self.__dict__["reference"]
        if not isinstance(given, bytes):
            _require_features(tuple(given.columns), self.feature_names)
        if self.model.feature_count != len(self.feature_names):
            raise ContractBroken(
                f"Bundle: expected a model of {len(self.feature_names)} features, found {self.model.feature_count}."
            )

    # Scoring

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the model reads: the features, and the anomaly score where it has one."""
        return (*self.feature_names, ANOMALY_SCORE) if self.model.isolation else self.feature_names

    def margin(self, matrix: np.ndarray) -> np.ndarray:
        """Calibrated log-odds of fraud, shape (n,), natural log."""
        return self.model.margin(matrix)

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        """Fraud probability in (0, 1), shape (n,)."""
        return sigmoid(self.margin(matrix))

    def scores(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Fraud probability and, where the model has one, anomaly score: `predict` and more in one call."""
        margin, anomaly = self.model.scores(matrix)
        return sigmoid(margin), anomaly

    def predict_baseline(self, name: str, matrix: np.ndarray) -> np.ndarray:
        """Fraud probability as one of `baselines` has it, shape (n,)."""
        return sigmoid(Compiled(self.baselines[name], len(self.feature_names)).run("log_odds", matrix))

    def contributions(self, matrix: np.ndarray) -> np.ndarray:
        """Exact SHAP values of the log-odds per input, shape (n, inputs + 1); the last column is the base value.

        Each row sums to `margin` of that row within single precision.
        """
        return self.model.contributions(matrix)

    def reasons(self, matrix: np.ndarray, values: Sequence[Mapping[str, float | None]]) -> list[list[dict[str, Any]]]:
        """What pushed each of some scores up most, as `explanation.top_reasons`.

        Args:
            matrix: shape (n, f); values: the features of each row by name.
        """
        from fraud_pipelines.models.explanation import top_reasons

        rows = zip(self.contributions(matrix), self._input_values(matrix, values), strict=True)
        return [top_reasons(contributions, own, self.spec) for contributions, own in rows]

    def full_reasons(self, row: np.ndarray, values: Mapping[str, float | None]) -> "FullReasons":
        """One score taken apart, as `explanation.full_reasons`.

        Args:
            row: shape (1, f); values: its features by name.
        """
        from fraud_pipelines.models.explanation import full_reasons

        return full_reasons(self.contributions(row)[0], self._input_values(row, [values])[0], self.spec)

    def _input_values(
        self, matrix: np.ndarray, values: Sequence[Mapping[str, float | None]]
    ) -> list[dict[str, float | None]]:
        scores = self.model.anomaly_score(matrix)
        if scores is None:
            return [dict(own) for own in values]
        return [{**own, ANOMALY_SCORE: score} for own, score in zip(values, scores.tolist(), strict=True)]

    def importance(self) -> dict[str, float]:
        """Share of the mean absolute SHAP value per input on the reference sample, largest first."""
        from fraud_pipelines.features.vector import to_matrix

        matrix = to_matrix(self.reference, self.feature_names)
        sizes = np.abs(self.contributions(matrix[:_IMPORTANCE_ROWS])[:, :-1]).mean(axis=0)
        shares = dict(zip(self.input_names, map(float, sizes / (sizes.sum() or 1.0)), strict=True))
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def sample(self, rows: int) -> np.ndarray:
        """The first rows of the reference sample, shape (up to `rows`, f), single precision; read without pandas."""
        import pyarrow.parquet as pq

        file = pq.ParquetFile(io.BytesIO(self.contents[REFERENCE]))
        _require_features(tuple(file.schema_arrow.names), self.feature_names)
        batch = next(file.iter_batches(batch_size=rows, use_threads=False), None)
        if batch is None:
            return np.empty((0, len(self.feature_names)), dtype=np.float32)
        return np.array([column.to_pylist() for column in batch.columns], dtype=np.float32).T

    @property
    def spec(self) -> FeatureSpec:
        """The feature spec the model was trained with."""
        return _spec_of(self.spec_text)

    @property
    def label_delay_days(self) -> int:
        """Days after which this model's training took labels for known: how long to wait before judging it."""
        return self.split.label_delay_days

    # Keeping

    @cached_property
    def contents(self) -> dict[str, bytes]:
        """Bytes of every file of the bundle, manifest included."""
        model = {
            "format": FORMAT,
            "contender": self.contender,
            "weights": self.weights,
            "comparison": self.comparison.as_dict() if self.comparison else None,
            "feature_names": list(self.feature_names),
            "spec_hash": self.spec_hash,
            "thresholds": asdict(self.thresholds),
            "policy": self.policy.as_dict() if self.policy else None,
            "bands": [band.as_dict() for band in self.bands],
            "split": self.split.as_dict(),
            "data_hash": self.data_hash,
            "parameters": self.parameters,
            "metrics": self.metrics,
            "row_counts": self.row_counts,
            "code_version": self.code_version,
            "environment": self.environment,
        }
        files = {
            GRAPH: self.model.onnx_bytes,
            MODEL: _json_bytes(model),
            SPEC: self.spec_text.encode(),
            REFERENCE: _parquet_bytes(self.reference),
            **({BOOSTER: self.booster_bytes} if self.booster_bytes is not None else {}),
            **{f"baseline_{name}.onnx": data for name, data in self.baselines.items()},
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
        return cls.read(lambda name: _read(folder, name), origin=str(folder), digest=digest)

    @classmethod
    def read(cls, read: Callable[[str], bytes], *, origin: str, digest: str | None = None) -> "Bundle":
        """A bundle out of whatever holds its files; else as `load`.

        Args:
            read: bytes of a file of the bundle by its name, such as `manifest.json`; raises BundleCorrupt without it.
            origin: what errors call the place.
        """
        manifest_bytes = read(MANIFEST)
        found = hashlib.sha256(manifest_bytes).hexdigest()
        if digest is not None and digest != found:
            raise BundleCorrupt(f"{origin}: expected bundle digest {digest}, found {found}. {_AGAIN}")
        manifest = _parsed(origin, MANIFEST, manifest_bytes)
        listed = set(manifest.get("files", {}))
        others = {name for name in listed - set(FILES) if name != BOOSTER and not _BASELINE.fullmatch(name)}
        if manifest.get("format") != FORMAT or not listed >= set(FILES) or others:
            raise BundleCorrupt(
                f"{origin}/{MANIFEST}: expected format {FORMAT} with the files {list(FILES)}, found format "
                f"{manifest.get('format')} with {sorted(listed)}. {_AGAIN}"
            )
        files = {name: read(name) for name in sorted(listed)}
        for name, data in files.items():
            actual = hashlib.sha256(data).hexdigest()
            if actual != manifest["files"][name]:
                raise BundleCorrupt(
                    f"{origin}/{name}: expected SHA-256 {manifest['files'][name]}, found {actual}. {_AGAIN}"
                )
        model = _parsed(origin, MODEL, files[MODEL])
        bundle = cls(
            model=from_onnx(files[GRAPH]),
            contender=model["contender"],
            weights=model["weights"],
            spec_text=files[SPEC].decode(),
            feature_names=tuple(model["feature_names"]),
            spec_hash=model["spec_hash"],
            thresholds=Thresholds(**model["thresholds"]),
            split=TimeSplit.from_dict(model["split"]),
            data_hash=model["data_hash"],
            parameters=model["parameters"],
            metrics=model["metrics"],
            row_counts=model["row_counts"],
            reference=files[REFERENCE],  # type: ignore[arg-type]  # see _Reference
            code_version=model["code_version"],
            policy=PolicyBasis.from_dict(model["policy"]) if model["policy"] else None,
            bands=tuple(Band(**band) for band in model["bands"]),
            comparison=Comparison.from_dict(model["comparison"]) if model["comparison"] else None,
            booster_bytes=files.get(BOOSTER),
            baselines={match[1]: files[name] for name in files if (match := _BASELINE.fullmatch(name))},
            environment=model["environment"],
        )
        # The bytes as read: Parquet written again by another version would give another digest.
        bundle.__dict__["contents"] = {MANIFEST: manifest_bytes, **files}
        return bundle


class _Reference:
    """The reference sample as given, or read from its file when first asked for."""

    def __get__(self, bundle: Bundle | None, owner: type[Bundle]) -> Any:
        if bundle is None:
            return self
        given = bundle.__dict__["reference"]
        if isinstance(given, bytes):
            import pandas as pd

            given = pd.read_parquet(io.BytesIO(given))
            _require_features(tuple(given.columns), bundle.feature_names)
            bundle.__dict__["reference"] = given
        return given

    def __set__(self, bundle: Bundle, given: Any) -> None:
        bundle.__dict__["reference"] = given


# After the class is made: a dataclass would take what stands in its body for the field's default.
Bundle.reference = _Reference()  # type: ignore[assignment]

_AGAIN = "Fetch the version from the registry again, or train it again: fraud train"
# As many rows as a plot of them can show.
_IMPORTANCE_ROWS = 2_000


def sigmoid(log_odds: np.ndarray) -> np.ndarray:
    """Probability of natural log-odds; same shape."""
    return 1.0 / (1.0 + np.exp(-log_odds))


def current_environment() -> dict[str, str]:
    """Versions of Python and of the packages that a model's numbers depend on."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in ENVIRONMENT_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=8)
def _spec_of(text: str) -> FeatureSpec:
    # Versions of a model mostly share their spec, and reading one is most of what loading a bundle would cost.
    return parse_spec(text)


def _require_features(found: tuple[str, ...], expected: tuple[str, ...]) -> None:
    if found != expected:
        raise ContractBroken(
            "Bundle: the reference sample must hold exactly the features, in their order; "
            f"expected {list(expected)}, found {list(found)}."
        )


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _parquet_bytes(frame: "pd.DataFrame") -> bytes:
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


def _parsed(origin: str, name: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise BundleCorrupt(f"{origin}/{name} is not JSON: {error}. {_AGAIN}") from error
    if not isinstance(value, dict):
        raise BundleCorrupt(f"{origin}/{name}: expected a JSON object, found {type(value).__name__}. {_AGAIN}")
    return value
