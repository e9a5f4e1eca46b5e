"""The archive of a bundle: the same files give the same bytes, and what is no such archive is refused."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.errors import BundleCorrupt
from fraud_pipelines.models.archive import pack, unpack
from fraud_pipelines.models.bundle import Bundle
from tests.served_models import constant_bundle

NAMES = st.from_regex(r"[a-z_.]{1,40}", fullmatch=True)


@given(st.dictionaries(NAMES, st.binary(max_size=2000), max_size=5))
def test_what_goes_in_comes_out_and_order_does_not_matter(files):
    assert unpack(pack(files), origin="x") == files
    assert pack(dict(reversed(files.items()))) == pack(files)


def test_a_bundle_out_of_its_archive_is_verified_like_one_on_disk():
    bundle = constant_bundle(-2.0)
    files = unpack(pack(bundle.contents), origin="x")
    assert Bundle.read(files.__getitem__, origin="x", digest=bundle.digest).digest == bundle.digest
    files["model.onnx"] = files["model.onnx"][:-1] + b"!"
    with pytest.raises(BundleCorrupt, match=r"x/model\.onnx: expected SHA-256"):
        Bundle.read(files.__getitem__, origin="x", digest=bundle.digest)


@pytest.mark.parametrize("content", [b"", b"torn", pack({"a": b"b" * 5000})[:1000]], ids=["empty", "other", "cut"])
def test_what_is_no_archive_is_refused(content):
    with pytest.raises(BundleCorrupt, match="the ledger: "):
        Bundle.read(unpack(content, origin="the ledger").__getitem__, origin="x")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_a_link_or_device_is_refused(kind):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("model.onnx")
        entry.type, entry.linkname = kind, "/etc/passwd"
        archive.addfile(entry)
    with pytest.raises(BundleCorrupt, match=r"expected files, each once, found 'model\.onnx'"):
        unpack(buffer.getvalue(), origin="x")
