"""Fetching published weights: what is asked for, no network, and a file that is another one."""
import hashlib

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from course_lib.lab.training import published_files
from course_lib.lab.training.published_files import SOURCES, fetch_published


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A hub that serves small files in place of the large ones; what it was asked."""
    asked = {}
    contents = {path: path.encode() for path in SOURCES["stable-diffusion-1.5"].sha256}

    def snapshot_download(repository, **options):
        asked.update(options, repository=repository)
        for path, content in contents.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_bytes(content)
        return str(tmp_path)
    monkeypatch.setattr(published_files, "snapshot_download", snapshot_download)
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    source = SOURCES["stable-diffusion-1.5"]._replace(sha256=digests)
    monkeypatch.setitem(SOURCES, "stable-diffusion-1.5", source)
    return asked, contents


def test_a_pinned_commit_and_nothing_but_what_is_needed(served, tmp_path):
    assert fetch_published() == tmp_path
    asked, contents = served
    assert asked["revision"] == "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
    assert {*contents} < {*asked["allow_patterns"]}
    assert not any(pattern.endswith((".bin", ".ckpt", "*")) and "/" not in pattern
                   for pattern in asked["allow_patterns"])


def test_a_file_that_is_another_one_is_refused(served, tmp_path):
    _, contents = served
    path = "unet/diffusion_pytorch_model.fp16.safetensors"
    contents[path] = b"other weights"
    with pytest.raises(OSError, match="is not the published file .*SHA-256 differs.*delete it"):
        fetch_published()


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("offline"), OSError("no route")])
def test_no_network_is_one_sentence(monkeypatch, error):
    def nothing(*_, **__):
        raise error
    monkeypatch.setattr(published_files, "snapshot_download", nothing)
    with pytest.raises(ConnectionError, match="could not be reached .*fetch it where there is a"):
        fetch_published()


def test_digests_are_digests_and_another_name_is_refused():
    for source in SOURCES.values():
        assert len(source.revision) == 40 and source.gigabytes < 3
        assert all(len(d) == 64 and int(d, 16) for d in source.sha256.values())
    with pytest.raises(ValueError, match="stable-diffusion-1.5"):
        fetch_published("stable-diffusion-9")
