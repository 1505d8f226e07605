"""A cache of their own for tests, so that what they find was made by them."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synth.cache.cache_folder", lambda kind: folder / kind)
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Folder of an empty cache."""
    monkeypatch.setattr("synth.cache.cache_folder", lambda kind: tmp_path / "cache" / kind)
    return tmp_path / "cache"
