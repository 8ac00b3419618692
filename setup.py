"""Lists the packages: each top-level stage folder is a package of `nomul`, and so is every folder below it."""

from pathlib import Path

from setuptools import setup

STAGES = {
    "compiler": "nomul",
    "ir": "nomul.ir",
    "passes": "nomul.passes",
    "backends": "nomul.backends",
    "runtime": "nomul.runtime",
}


def stage_packages(folder: str, package: str) -> list[str]:
    inits = sorted(Path(__file__).parent.joinpath(folder).rglob("__init__.py"))
    relative = [init.parent.relative_to(Path(__file__).parent / folder) for init in inits]
    return [".".join([package, *path.parts]) for path in relative]


setup(
    packages=[name for folder, package in STAGES.items() for name in stage_packages(folder, package)],
    package_dir={package: folder for folder, package in STAGES.items()},
    package_data={
        "nomul": ["py.typed", "explain/*.md", "recipes/*.toml", "view/page/*"],
        "nomul.ir": ["*.lark"],
        "nomul.runtime": ["*.c", "*.h"],
        "nomul.runtime.runner": ["*.c", "*.h"],
    },
)
