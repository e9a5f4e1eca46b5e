"""The model registry: runs, versions, aliases and bundles in MLflow. The only module that imports mlflow.

A registered version is never changed. Registering the same bundle again gives the version it already has (rule 6).
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from fraud_pipelines.errors import BundleCorrupt, ContractBroken, RegistryUnavailable, UnknownVersion
from fraud_pipelines.models.bundle import Bundle

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

MODEL_NAME = "fraud-scorer"
EXPERIMENT = "fraud-scorer"
# Apart from the runs behind versions: a tuning has dozens.
TUNING_EXPERIMENT = "fraud-tuning"
DESCRIPTION = "Fraud probability of one card transaction. The ledger says who promoted which version, and why."
CHALLENGER, CHAMPION = "challenger", "champion"
BUNDLE_PATH = "bundle"
DIGEST_TAG = "bundle_digest"
CARD = "model_card.md"
PARENT_TAG = "mlflow.parentRunId"  # what MLflow's pages nest runs by


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of the model as the registry knows it; `aliases` point at it now."""

    version: str
    run_id: str
    digest: str
    aliases: tuple[str, ...]
    tags: dict[str, str]


@cache
def open_registry(tracking_url: str, artifacts_url: str) -> "Registry":
    """The registry at an MLflow tracking URI (sqlite:///path, postgresql+psycopg2://... or http://...).

    The first use of a new SQLite file creates MLflow's tables, which takes 5 to 13 seconds.

    Args:
        artifacts_url: a folder, or the URL of an object store, for new versions. Where it is a folder, versions that
            were registered elsewhere and are no longer there are looked for in it, too: a home can be moved.
    Raises:
        RegistryUnavailable: the store cannot be reached.
    """
    return Registry(tracking_url, artifacts_url)


class Registry:
    """Registers bundles, moves aliases, hands bundles back with their digests verified."""

    def __init__(self, tracking_url: str, artifacts_url: str) -> None:
        import mlflow

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.tracking_url = tracking_url
        self._artifacts_url = artifacts_url
        if tracking_url.startswith("sqlite:///"):
            Path(tracking_url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        with self._reaching():
            _require_database(tracking_url)
            self._client: MlflowClient = mlflow.MlflowClient(tracking_uri=tracking_url, registry_uri=tracking_url)
            self._experiment_id = self._find_or_create_experiment(EXPERIMENT)
            if not self._client.search_registered_models(f"name = '{MODEL_NAME}'"):
                self._client.create_registered_model(MODEL_NAME, description=DESCRIPTION)

    # Registering

    def register(
        self,
        bundle_folder: Path,
        params: Mapping[str, Any],
        metrics: Mapping[str, float | None],
        figures: Mapping[str, "Figure"],
        tags: Mapping[str, str],
    ) -> str:
        """Record one run with its bundle and make a version of it; the version an equal bundle already has, if any.

        Args:
            bundle_folder: a saved bundle; it is loaded, so its digests are verified first.
            metrics: those that are None on this sample are left out.
            figures: file name such as `roc.png` -> figure.
            tags: put on the run and on the version.
        Returns:
            The version, such as "3".
        Raises:
            BundleCorrupt: the folder does not hold a sound bundle.
            RegistryUnavailable: MLflow cannot be reached; calling again is safe.
        """
        bundle = Bundle.load(bundle_folder)
        for existing in self.versions():
            if existing.digest == bundle.digest:
                return existing.version
        all_tags = {**tags, DIGEST_TAG: bundle.digest}
        with self._reaching():
            run = self._client.create_run(
                self._experiment_id, run_name=f"candidate-{bundle.digest[:12]}", tags=dict(all_tags)
            )
            run_id = run.info.run_id
            for name, value in params.items():
                self._client.log_param(run_id, name, value)
            self._log(run_id, metrics, figures)
            self._client.log_artifacts(run_id, str(bundle_folder), BUNDLE_PATH)
            self._client.set_terminated(run_id)
            created = self._client.create_model_version(
                MODEL_NAME, f"{run.info.artifact_uri}/{BUNDLE_PATH}", run_id=run_id, tags=dict(all_tags)
            )
        return str(created.version)

    def annotate(
        self, version: str, *, metrics: Mapping[str, float | None], figures: Mapping[str, "Figure"] | None = None
    ) -> None:
        """Add metrics and figures to the run behind a version, such as those of a later evaluation."""
        with self._reaching():
            self._log(self.version(version).run_id, metrics, figures or {})

    # Trials of a tuning: runs without a version

    @contextmanager
    def tuning_run(self, name: str, *, tags: Mapping[str, str]) -> Iterator[str]:
        """A run for the length of the block, to nest trials under; yields its id. FAILED where the block raises."""
        with self._reaching():
            experiment = self._find_or_create_experiment(TUNING_EXPERIMENT)
            run_id = str(self._client.create_run(experiment, run_name=name, tags=dict(tags)).info.run_id)
        try:
            yield run_id
        except BaseException:
            with self._reaching():
                self._client.set_terminated(run_id, "FAILED")
            raise
        with self._reaching():
            self._client.set_terminated(run_id)

    def add_trial(
        self,
        parent: str,
        name: str,
        *,
        params: Mapping[str, Any],
        metrics: Mapping[str, float | None],
        tags: Mapping[str, str],
    ) -> str:
        """Record one trial as a finished run nested under `parent`; its id. Metrics that are None are left out."""
        with self._reaching():
            experiment = self._client.get_run(parent).info.experiment_id
            run = self._client.create_run(experiment, run_name=name, tags={**tags, PARENT_TAG: parent})
            self.describe_run(run.info.run_id, params=params, metrics=metrics)
            self._client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    def describe_run(
        self,
        run_id: str,
        *,
        params: Mapping[str, Any],
        metrics: Mapping[str, float | None],
        figures: Mapping[str, "Figure"] | None = None,
    ) -> None:
        """Add parameters, metrics and figures to a run."""
        with self._reaching():
            for name, value in params.items():
                self._client.log_param(run_id, name, value)
            self._log(run_id, metrics, figures or {})

    def trial_names(self, parent: str) -> list[str]:
        """Names of the finished runs nested under `parent`, sorted; empty where there are none, or no such run."""
        with self._reaching():
            experiment, names, token = self._find_or_create_experiment(TUNING_EXPERIMENT), [], None
            while token is None or token:
                found = self._client.search_runs(
                    [experiment], f"tags.`{PARENT_TAG}` = '{parent}' and status = 'FINISHED'", page_token=token
                )
                names += [str(run.info.run_name) for run in found]
                token = found.token or ""
        return sorted(names)

    def describe(self, version: str, card: str, *, summary: str | None = None) -> None:
        """Keep the model card of a version, Markdown, with its run; `summary` is one line for lists of versions."""
        with self._reaching():
            run_id = self.version(version).run_id
            folder = self._present_folder(run_id, self._client.get_run(run_id).info.artifact_uri)
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / CARD).write_text(card)
            else:
                self._client.log_text(run_id, card, CARD)
            if summary is not None:
                self._client.update_model_version(MODEL_NAME, version, description=f"{summary}. See {CARD} of its run.")

    # Aliases

    def set_alias(self, alias: str, version: str) -> None:
        """Point an alias at a version.

        Raises:
            UnknownVersion: there is no such version.
        """
        self.version(version)
        with self._reaching():
            self._client.set_registered_model_alias(MODEL_NAME, alias, version)

    def clear_alias(self, alias: str) -> None:
        """Remove an alias; nothing happens where it is not set."""
        if self.version_of(alias) is not None:
            with self._reaching():
                self._client.delete_registered_model_alias(MODEL_NAME, alias)

    def version_of(self, alias: str) -> str | None:
        """The version an alias points at; None where it is not set."""
        with self._reaching():
            found = self._client.get_registered_model(MODEL_NAME).aliases.get(alias)
        return str(found) if found is not None else None

    # Reading

    def versions(self) -> list[RegisteredVersion]:
        """Every version, oldest first."""
        with self._reaching():
            found = self._client.search_model_versions(f"name = '{MODEL_NAME}'")
            aliases = self._client.get_registered_model(MODEL_NAME).aliases
        return sorted(
            (
                RegisteredVersion(
                    version=str(item.version),
                    run_id=str(item.run_id),
                    digest=item.tags.get(DIGEST_TAG, ""),
                    aliases=tuple(sorted(name for name, to in aliases.items() if str(to) == str(item.version))),
                    tags=dict(item.tags),
                )
                for item in found
            ),
            key=lambda item: int(item.version),
        )

    def version(self, version: str) -> RegisteredVersion:
        """One version.

        Raises:
            UnknownVersion: names the versions there are.
        """
        found = self.versions()
        for item in found:
            if item.version == str(version):
                return item
        raise UnknownVersion(
            f"The registry has no version {version} of {MODEL_NAME}; "
            f"it has {[item.version for item in found] or 'none'}. Run: fraud train"
        )

    def download(self, version: str) -> Path:
        """Folder of a version's bundle, digests verified. A local store's own folder: read it, never write to it.

        Raises:
            UnknownVersion: there is no such version.
            BundleCorrupt: the files are not those that were registered.
        """
        folder, _ = self._fetch(version)
        return folder

    def load(self, version: str) -> Bundle:
        """A version's bundle, digests verified; errors as `download`."""
        _, bundle = self._fetch(version)
        return bundle

    def _fetch(self, version: str) -> tuple[Path, Bundle]:
        import mlflow.artifacts
        from mlflow.exceptions import MlflowException

        registered = self.version(version)
        if not registered.digest:
            raise BundleCorrupt(
                f"Version {version} of {MODEL_NAME} has no {DIGEST_TAG} tag: it was not registered by this project. "
                "Choose another version, or train one: fraud train"
            )
        with self._reaching():
            uri = self._client.get_model_version_download_uri(MODEL_NAME, version)
            present = self._present_folder(registered.run_id, uri)
            if present is not None:
                if not present.is_dir():
                    raise _bundle_missing(version, str(present))
                return present, Bundle.load(present, digest=registered.digest)
            try:
                folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=self.tracking_url))
            except (OSError, MlflowException) as error:
                if isinstance(error, MlflowException) and error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise _bundle_missing(version, uri) from error
        return folder, Bundle.load(folder, digest=registered.digest)

    def _present_folder(self, run_id: str, uri: str) -> Path | None:
        """Where a local artefact of a run is now: as recorded, or under the artefact folder of a home that has moved.

        None where the artefacts are not on this machine's disk.
        """
        recorded, ours = _local_path(uri), _local_path(self._artifacts_url)
        if recorded is None or recorded.exists() or ours is None:
            return recorded
        experiment = self._client.get_experiment(self._client.get_run(run_id).info.experiment_id)
        location = _local_path(experiment.artifact_location)
        if location is None or not recorded.is_relative_to(location):
            return recorded
        return ours / recorded.relative_to(location)

    # Plumbing

    def _log(self, run_id: str, metrics: Mapping[str, float | None], figures: Mapping[str, "Figure"]) -> None:
        for name, value in metrics.items():
            if value is not None:
                self._client.log_metric(run_id, name, float(value))
        folder = self._present_folder(run_id, self._client.get_run(run_id).info.artifact_uri) if figures else None
        for file_name, figure in figures.items():
            if folder is not None:
                (folder / "figures").mkdir(parents=True, exist_ok=True)
                figure.savefig(folder / "figures" / file_name)
            else:
                self._client.log_figure(run_id, figure, f"figures/{file_name}")

    def _find_or_create_experiment(self, wanted: str) -> str:
        from mlflow.exceptions import MlflowException

        location = self._artifacts_url
        if "://" not in location:
            location = Path(location).expanduser().resolve().as_uri()
        name = wanted
        found = self._client.get_experiment_by_name(name)
        if found is not None and _local_path(found.artifact_location) not in (None, _local_path(location)):
            # An experiment's place cannot be changed: in a home that has moved, new runs get one of their own.
            name = f"{wanted} in {location}"
            found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name, artifact_location=location))
        except MlflowException:
            # Another process created it in between.
            again = self._client.get_experiment_by_name(name)
            if again is None:
                raise
            return str(again.experiment_id)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turn MLflow's errors into ours."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import OperationalError

        try:
            yield
        except MlflowException as error:
            match error.error_code:
                case "RESOURCE_DOES_NOT_EXIST":
                    raise UnknownVersion(f"The registry at {_shown(self.tracking_url)}: {error.message}") from error
                case "INVALID_PARAMETER_VALUE" | "RESOURCE_ALREADY_EXISTS":
                    raise ContractBroken(f"The registry at {_shown(self.tracking_url)}: {error.message}") from error
            raise RegistryUnavailable(_unreachable(self.tracking_url, error.message)) from error
        except (OperationalError, ConnectionError) as error:
            raise RegistryUnavailable(_unreachable(self.tracking_url, str(error))) from error


def _require_database(url: str) -> None:
    """Fail at once where the database is away: MLflow itself would retry for more than a minute and a half."""
    if url.startswith("http"):
        return
    from sqlalchemy import create_engine

    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg2://", 1))
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _local_path(url: str) -> Path | None:
    """The path that a plain path or file URL names; None for an object store or a tracking server."""
    if url.startswith("file:"):
        return Path(unquote(urlsplit(url).path))
    return None if "://" in url or url.startswith("mlflow-artifacts:") else Path(url).expanduser().resolve()


def _bundle_missing(version: str, place: str) -> BundleCorrupt:
    return BundleCorrupt(
        f"Version {version} of {MODEL_NAME} is registered, but its bundle is not at {place}. Restore that folder, "
        "or set FRAUD_ARTIFACTS_URL to where the artefacts are, then run: fraud doctor"
    )


def _unreachable(url: str, problem: str) -> str:
    return f"The registry at {_shown(url)} cannot be used: {problem}. Is its server up, and FRAUD_REGISTRY_URL right?"


def _shown(url: str) -> str:
    """The URL without user and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rsplit('@', 1)[-1]}"
