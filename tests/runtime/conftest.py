"""Toy artifacts, linked once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_artifact import Direct, toy_plan

from nomul.backends.link import link_library
from nomul.runtime.loader import Artifact, load


@pytest.fixture(scope="session")
def toy_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link_library(toy_plan(), tmp_path_factory.mktemp("toy") / "toy.so", facts={"compiler": "test"}).library


@pytest.fixture(scope="session")
def external_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link_library(toy_plan(), tmp_path_factory.mktemp("external") / "toy.so", weights="external").library


@pytest.fixture
def toy(toy_library: Path) -> Iterator[Artifact]:
    with load(toy_library) as artifact:
        yield artifact


@pytest.fixture(scope="session")
def direct(toy_library: Path) -> Direct:
    return Direct(toy_library)


@pytest.fixture(scope="session")
def external(external_library: Path) -> Direct:
    return Direct(external_library)
