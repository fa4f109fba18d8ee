"""The languages of programs beside Python: how a program is compiled and run, and what of the host that takes.

Knows commands and folders, runs no program of a stranger. Where a language is added, it is added here alone.
"""

import functools
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from codescaler.errors import SandboxUnavailable
from codescaler.sandbox.limits import Limits

# What a compiler may use. The compiled program counts as output.
COMPILE_LIMITS = Limits(
    cpu_seconds=30, wall_seconds=60.0, memory_bytes=2 << 30, num_processes=64, output_bytes=16 << 20,
    scratch_bytes=256 << 20,
)  # fmt: skip
_ASK_SECONDS = 30.0  # for a compiler to say where it is installed

Command = tuple[str, ...]


@dataclass(frozen=True)
class Language:
    """How programs of a language are compiled and run, in the folder that holds their text.

    In commands, {home} is where the language is installed, {gcc} the path of the tool gcc, {source} the file of the
    text, {main} and {public} are classes of Java, {asserts} is its option for assertions, and {heap} three quarters
    of the memory in MiB.

    Attributes:
        tools: programs of the host that it takes; the first one tells where it is installed. install: what to install.
        source: the file of the text. compile: a command, empty for none. run: a command, from the folder above.
        trial: a program that prints 1.
        find_home: where it is installed, by the path of its first tool; None if that is not asked.
        folders: of the host, that its tools read.
        test_mark: of tests that the language itself finds and runs. test_source, compile_tests: their file and command.
        reserved_bytes: of address space, that its runtime takes and leaves empty. num_threads: of its runtime.
        environment: of its tools.
    """

    tools: tuple[str, ...]
    install: str
    source: str
    compile: Command
    run: Command
    trial: str
    find_home: Callable[[str], str] | None = None
    folders: tuple[str, ...] = ()
    test_mark: str = ""
    test_source: str = ""
    compile_tests: Command = ()
    reserved_bytes: int = 0
    num_threads: int = 0
    environment: dict[str, str] = field(default_factory=dict)


def _ask(*arguments: str) -> Callable[[str], str]:
    """Asks a compiler where it is installed: what is found first may be a script that looks for it."""

    def ask(tool: str) -> str:
        said = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=_ASK_SECONDS, check=True)
        return said.stdout.strip()

    return ask


_LINKING = ("as", "ld")
_GCC = ("-O2", "-w", "-fmax-errors=4", "-o", "program", "{source}", "-lm")
_GCC_FOLDERS = ("/usr/include", "/usr/libexec/gcc")
_NATIVE = ("program/program",)
_RUST = ("{home}/bin/rustc", "--edition=2021", "-O", "--cap-lints=allow", "-Cstrip=symbols", "-Ccodegen-units=1",
         "-Clinker={cc}", "-Clink-arg=-fuse-ld=bfd", "-oprogram", "{source}")  # fmt: skip
_GO = ("{home}/bin/go",)
_GO_OUTPUT = ("-o", "program", "{source}")
_JAVA = ("-XX:+UseSerialGC", "-XX:ActiveProcessorCount=1", "-XX:-UsePerfData")
_JAVAC = ("-J-Xmx1g", "-proc:none", "-nowarn", "-Xmaxerrs", "4", "-encoding", "UTF-8", "{source}")
# The first thread, which runs `main`, has the stack of -Xss, and the others that of -XX:ThreadStackSize in KiB.
_JAVA_MEMORY = ("-Xmx{heap}m", "-Xss64m", "-XX:ThreadStackSize=1024")
_NODE = ("{node}", "--v8-pool-size=1")

LANGUAGES: dict[str, Language] = {
    "c": Language(
        tools=("gcc", *_LINKING),
        install="gcc and libc6-dev",
        source="program.c",
        compile=("{gcc}", "-std=gnu17", *_GCC),
        run=_NATIVE,
        trial='#include <stdio.h>\nint main() { puts("1"); }',
        folders=_GCC_FOLDERS,
    ),
    "cpp": Language(
        tools=("g++", *_LINKING),
        install="g++",
        source="program.cpp",
        compile=("{g++}", "-std=gnu++20", *_GCC),
        run=_NATIVE,
        trial="#include <iostream>\nint main() { std::cout << 1; }",
        folders=_GCC_FOLDERS,
    ),
    "go": Language(
        tools=("go",),
        install="golang-go",
        source="program.go",
        compile=(*_GO, "build", *_GO_OUTPUT),
        run=_NATIVE,
        trial='package main\nimport "fmt"\nfunc main() { fmt.Println(1) }',
        find_home=_ask("env", "GOROOT"),
        test_mark="testing.T",
        test_source="program_test.go",
        compile_tests=(*_GO, "test", "-c", "-vet=off", *_GO_OUTPUT),
        reserved_bytes=1 << 30,
        num_threads=16,
        environment={
            "CGO_ENABLED": "0", "GO111MODULE": "off", "GOFLAGS": "", "GOMAXPROCS": "2", "GOPATH": "/nowhere",
            "GOROOT": "{home}", "GOTOOLCHAIN": "local",
        },
    ),
    "java": Language(
        tools=("javac",),
        install="default-jdk-headless",
        source="{public}.java",
        compile=("{home}/bin/javac", *(f"-J{flag}" for flag in _JAVA), *_JAVAC),
        run=("{home}/bin/java", *_JAVA, *_JAVA_MEMORY, "{asserts}", "-cp", "program", "{main}"),
        trial="class Main { public static void main(String[] a) { System.out.println(1); } }",
        find_home=lambda javac: str(Path(javac).resolve().parents[1]),
        reserved_bytes=3 << 30,
        num_threads=32,
    ),
    "javascript": Language(
        tools=("node",),
        install="nodejs",
        source="program.js",
        compile=(*_NODE, "--check", "{source}"),
        run=(*_NODE, "--stack-size=60000", "--max-old-space-size={heap}", "program/{source}"),
        trial="console.log(1)",
        reserved_bytes=2 << 30,
        num_threads=16,
    ),
    "rust": Language(
        tools=("rustc", "cc", "ld.bfd", *_LINKING),
        install="rustc and gcc",
        source="program.rs",
        compile=_RUST,
        run=_NATIVE,
        trial='fn main() { println!("1"); }',
        find_home=_ask("--print", "sysroot"),
        test_mark="#[test]",
        test_source="program.rs",
        compile_tests=(*_RUST, "--test"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Toolchain:
    """A language with the tools that this host has for it. `shown` is what of the host its box shows."""

    name: str
    language: Language
    paths: dict[str, str]
    shown: tuple[str, ...]

    @property
    def environment(self) -> dict[str, str]:
        """What its tools are told. Without /proc, they do not find the libraries beside themselves."""
        libraries = {"LD_LIBRARY_PATH": f"{self.paths['home']}/lib"} if "home" in self.paths else {}
        return libraries | {key: value.format_map(self.paths) for key, value in self.language.environment.items()}

    def plan(self, text: str, has_tests: bool, limits: Limits) -> tuple[str, list[str], list[str]]:
        """Returns the name of the file of a program, and how it is compiled and run. Tests may stand in its text."""
        language = self.language
        main, public = _find_classes(text) if self.name == "java" else ("", "")
        names = {**self.paths, "main": main, "public": public, "asserts": "-ea" if has_tests else "-da"}
        names["heap"] = str((limits.memory_bytes * 3 // 4) >> 20)
        is_marked = has_tests and language.test_mark != "" and language.test_mark in text
        names["source"] = (language.test_source if is_marked else language.source).format_map(names)
        compile = language.compile_tests if is_marked else language.compile
        commands = [[word.format_map(names) for word in words] for words in (compile, language.run)]
        return names["source"], commands[0], commands[1]


@functools.cache
def find_toolchain(name: str) -> Toolchain:
    """Returns what the host has for a language.

    Raises: SandboxUnavailable if programs of the language are not judged, or a tool is missing, with what to install.
    """
    language = LANGUAGES.get(name)
    if language is None:
        raise SandboxUnavailable(
            f"programs in {name!r:.80} are not judged; their language has to be python, or one of "
            f"{', '.join(LANGUAGES)}"
        )
    found = {tool: shutil.which(tool) for tool in language.tools}
    paths = {tool: path for tool, path in found.items() if path is not None}
    if len(paths) < len(found):
        missing = ", ".join(tool for tool in found if tool not in paths)
        raise SandboxUnavailable(
            f"programs in {name!r} are not judged here, since {missing} is not on the path; install {language.install} "
            "(Debian's name)"
        )
    shown = [*paths.values(), *language.folders]
    if language.find_home is not None:
        try:
            home = paths["home"] = language.find_home(paths[language.tools[0]])
        except (OSError, subprocess.SubprocessError) as error:
            raise SandboxUnavailable(f"{language.tools[0]} does not say where it is: {error}") from error
        shown = [*shown[1:], home, *_list_linked(home)]
    return Toolchain(name, language, paths, tuple(path for path in shown if Path(path).exists()))


def _list_linked(home: str) -> list[str]:
    """What links below a folder stand for, if it is outside: some systems keep settings and sources elsewhere."""
    entries = (Path(folder, name) for folder, *names in os.walk(home) for name in itertools.chain(*names))
    targets = {os.path.normpath(entry.parent / entry.readlink()) for entry in entries if entry.is_symlink()}
    return sorted(target for target in targets if not Path(target).is_relative_to(home))


# Each is linear in time, also of what is opened and never closed.
_JAVA_REMARK = re.compile(r"//[^\n]*|/\*.*?(?:\*/|\Z)|\"(?:\\.|[^\"\\\n])*\"?|'(?:\\.|[^'\\\n])*'?", re.DOTALL)
_JAVA_CLASS = re.compile(
    r"(\bpublic\s+(?:\w+\s+){0,4}?)?\b(?:class|interface|enum|record)\s+(\w+)|(\bmain\s*\()|([{}])"
)


def _find_classes(text: str) -> tuple[str, str]:
    """Returns the class of a Java program that has `main`, and the one that its file has to be called after."""
    text = _JAVA_REMARK.sub(" ", text)
    package = re.search(r"\bpackage\s+([\w.]+)\s*;", text)
    last, main, public, depth = "Main", "", "", 0
    for modifiers, name, starts_main, brace in _JAVA_CLASS.findall(text):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if name and depth == 0:
            last, public = name, public or (name if modifiers else "")
        elif starts_main and depth == 1:
            main = main or last
    main = main or last
    return (f"{package[1]}.{main}" if package else main), public or main
