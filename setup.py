"""Builds the guest binary into the package; everything else about the package is in pyproject.toml."""

import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithGuest(build_py):
    """Compiles guest/*.c into agentkernel/_guest/, on Linux; elsewhere there is nothing to run it on."""

    def run(self) -> None:
        base = ROOT / "src" if self.editable_mode else Path(self.build_lib)
        if not self.editable_mode:
            shutil.rmtree(base / "agentkernel", ignore_errors=True)  # of an earlier build: modules that are gone would be installed again
        if sys.platform == "linux":
            self._compile(base / "agentkernel" / "_guest")  # first: without a compiler its message is the first thing that is said
        super().run()

    def _compile(self, output: Path) -> None:
        sys.path.insert(0, str(ROOT / "guest"))
        from build import BuildFailed, build

        try:
            build(output)
        except BuildFailed as error:
            raise SystemExit(f"error: {error}") from error


class BinaryDistribution(Distribution):
    """Marks the wheel as specific to a platform: it carries a compiled program."""

    def has_ext_modules(self) -> bool:
        return sys.platform == "linux"


setup(cmdclass={"build_py": BuildWithGuest}, distclass=BinaryDistribution)
