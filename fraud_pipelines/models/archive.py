"""A bundle's files as one string of bytes, for a store that keeps values rather than folders.

An uncompressed tar, because the same files then give the same bytes wherever they are packed. Nothing is extracted to a
disk here: a name inside is a key, and `Bundle.read` looks up the names it knows.
"""

import io
import tarfile
from collections.abc import Mapping

from fraud_pipelines.errors import BundleCorrupt


def pack(files: Mapping[str, bytes]) -> bytes:
    """The archive of these files, by name; the same files give the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size = len(files[name])
            archive.addfile(entry, io.BytesIO(files[name]))
    return buffer.getvalue()


def unpack(content: bytes, *, origin: str) -> dict[str, bytes]:
    """The files that `pack` was given.

    Args:
        origin: what errors call the place.
    Raises:
        BundleCorrupt: no archive, cut short, or with something in it that is no file.
    """
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for entry in archive:
                file = archive.extractfile(entry) if entry.isreg() else None
                if file is None or entry.name in files:
                    raise BundleCorrupt(f"{origin}: expected files, each once, found {entry.name!r}. {_AGAIN}")
                files[entry.name] = file.read()
    except (tarfile.TarError, ValueError, OSError) as error:
        raise BundleCorrupt(f"{origin}: expected the archive of a bundle, found {error}. {_AGAIN}") from error
    return files


_AGAIN = "Put it into the ledger again: fraud promote VERSION --reason 'WHY'"
