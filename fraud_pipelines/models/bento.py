"""Building the Bento of a model version: the service's code and the model's bundle in one folder."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fraud_pipelines.errors import ContractBroken, NoChampion
from fraud_pipelines.settings import PROJECT_ROOT, TELEMETRY_OFF

if TYPE_CHECKING:
    from fraud_pipelines.models.bundle import Bundle

BENTO_NAME = "fraud-scorer"
# What of the project a Bento holds; everything else stays behind.
CODE_FOLDERS = ("fraud_pipelines", "serving")
# The service computes from the spec inside the bundle; this one bounds the online state when the bundle is unusable.
FEATURE_SPEC = Path("dbt_project/models/features/transaction_features.yml")
# Folder of the model inside a Bento: champion.json (which version, which digest) and bundle/.
CHAMPION_FOLDER = "champion"
_NOT_CODE = shutil.ignore_patterns("__pycache__", "*.pyc")


@dataclass(frozen=True)
class BuiltBento:
    """One Bento in BentoML's store."""

    tag: str
    path: Path
    model_version: str
    bundle_digest: str

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def verified_bundle(self, *, digest: str) -> "Bundle":
        """The model inside, its files held against their digests and the whole against `digest`.

        Raises:
            BundleCorrupt: something differs.
        """
        from fraud_pipelines.models.bundle import Bundle

        return Bundle.load(self.path / "src" / CHAMPION_FOLDER / "bundle", digest=digest)


def build_bento(bundle_folder: Path, version: str, *, bentoml_home: Path) -> BuiltBento:
    """Build the Bento `fraud-scorer:<version>-<digest8>`, or return the one that is there.

    The eight digits cover the bundle and the code of the service, so the same content has the same tag and is built
    once. The build runs in a process of its own: BentoML imports the service from the staged folder, which proves that
    what is in the Bento is enough to load it, and leaves this process's modules and working directory alone. Machine
    code is added last; the tag does not cover it, as it follows from the code.

    Raises:
        BundleCorrupt: the bundle's files do not match its digests.
        ContractBroken: BentoML refused; its last words are in the message.
    """
    from fraud_pipelines.models.bundle import Bundle
    from fraud_pipelines.models.machine_code import add_machine_code

    bundle = Bundle.load(bundle_folder)
    bundle_digest = bundle.digest
    with tempfile.TemporaryDirectory(prefix="fraud-bento-") as staging:
        root = Path(staging)
        for folder in CODE_FOLDERS:
            shutil.copytree(PROJECT_ROOT / folder, root / folder, ignore=_NOT_CODE)
        (root / FEATURE_SPEC).parent.mkdir(parents=True)
        shutil.copy(PROJECT_ROOT / FEATURE_SPEC, root / FEATURE_SPEC)
        shutil.copytree(bundle_folder, root / CHAMPION_FOLDER / "bundle")
        champion = {"name": BENTO_NAME, "version": version, "bundle_digest": bundle_digest}
        (root / CHAMPION_FOLDER / "champion.json").write_text(json.dumps(champion, indent=2))
        bento_version = f"{version}-{_digest_of_folder(root)[:8]}"
        path = bentoml_home / "bentos" / BENTO_NAME / bento_version
        if not (path / "bento.yaml").exists():
            _run_bentoml_build(root, bento_version, champion, bentoml_home)
            if not (path / "bento.yaml").exists():
                raise ContractBroken(
                    f"BentoML reported success but left no Bento at {path}. Run: bentoml list, then build again."
                )
            add_machine_code(bundle, path / "src")
    return BuiltBento(f"{BENTO_NAME}:{bento_version}", path, version, bundle_digest)


def bento_of(version: str, *, bentoml_home: Path) -> BuiltBento:
    """The newest Bento of one model version.

    Raises:
        NoChampion: none was built.
    """
    built = sorted(
        (bentoml_home / "bentos" / BENTO_NAME).glob(f"{version}-*/bento.yaml"), key=lambda file: file.stat().st_mtime
    )
    if not built:
        raise NoChampion(
            f"No Bento of model version {version} in {bentoml_home}: it was promoted but not built. "
            "Run: fraud materialize models/bento"
        )
    path = built[-1].parent
    champion = json.loads((path / "src" / CHAMPION_FOLDER / "champion.json").read_text())
    return BuiltBento(f"{BENTO_NAME}:{path.name}", path, version, champion["bundle_digest"])


def _digest_of_folder(root: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(root).as_posix()}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _run_bentoml_build(root: Path, bento_version: str, champion: dict[str, str], bentoml_home: Path) -> None:
    bentoml_home.mkdir(parents=True, exist_ok=True)
    labels = [f"--label=model_version={champion['version']}", f"--label=bundle_digest={champion['bundle_digest']}"]
    result = subprocess.run(
        [
            *(sys.executable, "-m", "bentoml", "build", "--bentofile", str(root / "serving" / "bentofile.yaml")),
            *("--version", bento_version, *labels, "--output", "tag", str(root)),
        ],
        cwd=root,
        env={**os.environ, **TELEMETRY_OFF, "BENTOML_HOME": str(bentoml_home)},
        capture_output=True,
        text=True,
    )
    if result.returncode != 0 and "already exists" not in result.stderr:
        raise ContractBroken(
            f"BentoML could not build {BENTO_NAME}:{bento_version} (exit code {result.returncode}): "
            f"{(result.stderr or result.stdout).strip()[-2000:]}"
        )
