"""What pyproject.toml cannot say: how an editable install shows the repository root as ``memreplay``, and that the
package does without its compiled loops where there is no C compiler."""

import zlib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.editable_wheel import editable_wheel


class EditableLink(editable_wheel):
    """Puts ``.editable/memreplay``, a link to the repository root, on the path.

    Python, type checkers and editors all follow it; setuptools' own answer for this layout is an import hook, which
    only Python understands. Where links are not allowed, that hook is still what one gets.
    """

    def finalize_options(self) -> None:
        root = Path(__file__).resolve().parent
        link = root / ".editable" / "memreplay"
        try:
            link.parent.mkdir(exist_ok=True)
            if link.resolve() != root:
                link.unlink(missing_ok=True)
                link.symlink_to(root, target_is_directory=True)
            self.distribution.package_dir = {"": link.parent.name}
        except OSError as error:
            self.warn(f"type checkers will not find the package, a link could not be made: {error}")
        super().finalize_options()


def extension(name: str) -> Extension:
    """A module in C that knows the checksum of its source (see core/loops.py)."""
    source = f"{name.replace('.', '/')}.c"
    macros = [("SOURCE", f"{zlib.crc32(Path(source).read_bytes())}u")]
    return Extension(f"memreplay.{name}", [source], define_macros=macros, extra_compile_args=["-O3"], optional=True)


loops = [extension(name) for name in ("core._loops", "core.retrievers._scan")]

# by its name setuptools knows that this file, which lies among the package's modules, is none of them
setup(script_name="setup.py", cmdclass={"editable_wheel": EditableLink}, ext_modules=loops)
