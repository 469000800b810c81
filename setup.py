"""Build the extension modules and the freestanding pyrunc-init from the same Cython sources."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# A build front end does not put this directory on the path.
sys.path.insert(0, str(Path(__file__).parent))
import setup_hello

NATIVE = Path("pyrunc/_native")
LIBRARIES = {"seccomp": ["seccomp"]}
LIMITED_API = "0x030B0000"  # Python 3.11: one cp311-abi3 wheel serves every later version
# Under the limited API, Cython 3.3 asks `inspect` for these at each module's import, which costs 12 ms. They are
# part of the language's ABI: Python documents them in "Code Objects Bit Flags".
CODE_FLAGS = {
    "CO_OPTIMIZED": "1", "CO_NEWLOCALS": "2", "CO_VARARGS": "4", "CO_VARKEYWORDS": "8",
    "CO_GENERATOR": "0x20", "CO_COROUTINE": "0x80", "CO_ASYNC_GENERATOR": "0x200",
}  # fmt: skip
# Between clone and execve nothing may depend on an optimiser's or a hardening flag's run-time support.
INIT_FLAGS = [
    "-Os", "-std=gnu11", "-ffunction-sections", "-fdata-sections", "-fno-asynchronous-unwind-tables",
    "-fno-stack-protector", "-w", f"-DPy_LIMITED_API={LIMITED_API}",
]  # fmt: skip


class BuildNative(build_ext):
    """The extension modules, then pyrunc-init and pyrunc-oci (static, without libpython), then the image around it."""

    def run(self) -> None:
        """Build all four."""
        super().run()
        place = NATIVE if self.inplace else Path(self.build_temp)
        place.mkdir(parents=True, exist_ok=True)
        target, front_door = place / "pyrunc-init", place / "pyrunc-oci"
        build_init(NATIVE / "init.c", target)
        build_init(NATIVE / "init.c", front_door, "pyrunc_oci_main")
        images = Path("." if self.inplace else self.build_lib) / "pyrunc" / "images"
        setup_hello.write(target, images / setup_hello.NAME)
        if self.inplace:
            # A new file: the old one may be a program that runs.
            front_door = front_door.rename(Path("bin/pyrunc-oci"))
            # What an installation has beside it: which interpreter it becomes, and where that finds the package.
            record = front_door.with_name(f"{front_door.name}.python")
            record.write_text(f"{sys.executable}\n{Path.cwd()}\n")
        else:
            self.distribution.data_files = [("bin", [str(target), str(front_door)])]


def build_init(source: Path, target: Path, entry: str = "pyrunc_init_main") -> None:
    """Compile and link *source* as *target*, which begins at *entry*: musl keeps it small; glibc is the fallback."""
    compiler = os.environ.get("PYRUNC_INIT_CC") or shutil.which("musl-gcc") or os.environ.get("CC") or "cc"
    paths = sysconfig.get_paths()
    includes = [f"-I{paths['include']}", f"-I{paths['platinclude']}"]
    command = [
        *compiler.split(), *INIT_FLAGS, f"-D{entry}=main", *includes, "-static", "-Wl,--gc-sections",
        "-Wl,-z,noexecstack", "-s", f"-Wl,-Map={target}.map", "-o", str(target), str(source),
    ]  # fmt: skip
    if "musl" in compiler:
        # A Python built for glibc asks for what musl refuses, and Debian's pyconfig.h names a file beside its own
        # directory: searched last, so that every header that musl has is musl's.
        beside = str(Path(paths["include"]).parent)
        command += ["-D_FORTIFY_SOURCE=0", "-idirafter", beside]
    subprocess.run(command, check=True)


def extensions() -> list[Extension]:
    """One module per `.pyx` of the native core."""
    return [
        Extension(
            f"pyrunc._native.{source.stem}",
            [str(source)],
            libraries=LIBRARIES.get(source.stem, []),
            define_macros=[("Py_LIMITED_API", LIMITED_API), *CODE_FLAGS.items()],
            extra_compile_args=["-O2", "-Wno-unused-function"],
            extra_link_args=["-Wl,-s"],
            py_limited_api=True,
        )
        for source in sorted(NATIVE.glob("*.pyx"))
    ]


def slim(modules: list[Extension]) -> list[Extension]:
    """Spare the generated modules imports that they do not need, see CODE_FLAGS."""
    for module in modules:
        for source in map(Path, module.sources):
            text = source.read_text()
            slimmer = text.replace(
                'PyImport_ImportModule("inspect")', 'PyImport_ImportModule("sys")'
            ).replace('PyImport_ImportModule("collections.abc")', 'PyImport_ImportModule("_collections_abc")')
            if slimmer != text:
                source.write_text(slimmer)
    return modules


setup(
    ext_modules=slim(cythonize(extensions(), language_level=3)),
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
