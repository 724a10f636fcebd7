"""Builds the guest binary into the package; everything else about the package is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithGuest(build_py):
    """Compiles guest/*.c into agentkernel/_guest/, on Linux; elsewhere there is nothing to run it on."""

    def run(self) -> None:
        super().run()
        if sys.platform != "linux":
            return
        sys.path.insert(0, str(ROOT / "guest"))
        from build import BuildFailed, build

        base = ROOT / "src" if self.editable_mode else Path(self.build_lib)
        try:
            build(base / "agentkernel" / "_guest")
        except BuildFailed as error:
            raise SystemExit(f"error: {error}") from error


class BinaryDistribution(Distribution):
    """Marks the wheel as specific to a platform: it carries a compiled program."""

    def has_ext_modules(self) -> bool:
        return sys.platform == "linux"


setup(cmdclass={"build_py": BuildWithGuest}, distclass=BinaryDistribution)
