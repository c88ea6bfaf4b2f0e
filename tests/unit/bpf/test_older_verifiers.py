"""What the verifier of Linux 6.1 refuses and this machine's does not, found in the objects without booting that kernel.

`make test-kernels` is the proof; this says it on the day that a program grows.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MOST_STACK = 512
FRAME_STEP = 32  # each frame counts as a multiple of it, an empty one too

LINE = re.compile(r"^\s*(\d+):\t([0-9a-f ]+)\t(.*)$")
CALL_OF_OURS = "85 10 "


@dataclass
class Function:
    """Instructions by number, what each calls, and the bytes of stack."""

    code: dict[int, str] = field(default_factory=dict)
    calls: set[str] = field(default_factory=set)
    stack: int = 0


@pytest.fixture(scope="module", params=["flow", "guard", "dispatch"])
def functions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Function]:
    for program, package in (("clang", "clang"), ("llvm-objdump", "llvm")):
        if not shutil.which(program):
            pytest.skip(f"no {program} here (apt-get install {package})")
    out = tmp_path_factory.mktemp("bpf") / f"{request.param}.o"
    headers = [f"-I{path}" for path in Path("/usr/include").glob("*-linux-gnu")]
    compile_it = ["clang", "-O2", "-target", "bpf", "-mcpu=v3", "-c", ROOT / f"bpf/{request.param}.bpf.c", "-o", out]
    subprocess.run([*compile_it, *headers], check=True)
    said = subprocess.run(["llvm-objdump", "-d", "-r", out], check=True, capture_output=True, text=True).stdout
    return read(said)


def read(said: str) -> dict[str, Function]:
    """From what llvm-objdump says."""
    found: dict[str, Function] = {}
    starts: dict[tuple[str, int], str] = {}  # functions, by section and first instruction
    calls: dict[tuple[str, int], tuple[str, int]] = {}  # who is called, by section and instruction
    section, name, at, code, frame_copies = "", "", 0, "", set[str]()
    for line in said.splitlines():
        if opened := re.match(r"Disassembly of section (\S+):", line):
            section = opened[1]
        elif (opened := re.match(r"([0-9a-f]+) <(\w+)>:", line)) and not opened[2].startswith("LBB"):
            name, frame_copies = opened[2], set()
            found[name] = Function()
            starts[section, int(opened[1], 16) // 8] = name
        elif named := re.search(r"R_BPF_64_32\s+(\S+)", line):  # of the call above
            del calls[section, at]
            if named[1] == ".text":
                calls[section, at] = (".text", offset_of(code) + 1)
            else:
                found[name].calls.add(named[1])
        elif re.search(r"R_BPF_64_64\s+\.text$", line):  # a function that is handed to bpf_loop
            calls[section, at] = (".text", int(code.split()[-2], 0) // 8)
        elif words := LINE.match(line):
            at, code, function = int(words[1]), words[3], found[name]
            function.code[at] = code
            function.stack = max([function.stack, *(int(n, 0) for n in re.findall(r"r10 - (\w+)", code))])
            if copied := re.match(r"(r\d) = r10$", code):
                frame_copies.add(copied[1])
            elif (moved := re.match(r"(r\d) \+= -(\w+)$", code)) and moved[1] in frame_copies:
                function.stack = max(function.stack, int(moved[2], 0))
            if words[2].startswith(CALL_OF_OURS):
                calls[section, at] = (section, at + 1 + offset_of(code))
    for (section, at), called in calls.items():
        caller = max(start for place, start in starts if place == section and start <= at)
        found[starts[section, caller]].calls.add(starts[called])
    return found


def offset_of(code: str) -> int:
    return int(code.rsplit(" ", 1)[1], 0)


def deepest(functions: dict[str, Function], name: str) -> tuple[int, str]:
    own = max(functions[name].stack, 1)
    frame = -(-own // FRAME_STEP) * FRAME_STEP
    below, chain = max((deepest(functions, called) for called in functions[name].calls), default=(0, ""))
    return frame + below, f"{name} {own}, {chain}"


def rounds_without_a_jump(function: Function) -> list[str]:
    """Instructions that are no jumps and lead back to where the way has come from."""
    numbers = sorted(function.code)
    after = dict(pairwise(numbers))

    def ways(at: int) -> list[tuple[int, bool]]:
        code = function.code[at]
        if code == "exit":
            return []
        if jump := re.search(r"goto ([+-]\w+)", code):
            there = (at + 1 + int(jump[1], 0), True)
            return [there] if code.startswith("goto") else [(after[at], True), there]
        return [(after[at], False)] if at in after else []

    found, done, path = [], set[int](), [(numbers[0], iter(ways(numbers[0])))]
    on_path = {numbers[0]}
    while path:
        at, rest = path[-1]
        for there, is_jump in rest:
            if there in on_path and not is_jump:
                found.append(f"{at}: {function.code[at]}")
            if there not in on_path and there not in done:
                path.append((there, iter(ways(there))))
                on_path.add(there)
                break
        else:
            path.pop()
            on_path.remove(at)
            done.add(at)
    return found


def test_the_stacks_of_a_chain_of_calls_fit(functions: dict[str, Function]) -> None:
    depth, chain = max(deepest(functions, name) for name in functions)
    assert depth <= MOST_STACK, f"{depth} bytes: {chain}"


def test_every_round_of_a_loop_begins_with_a_jump(functions: dict[str, Function]) -> None:
    found = {name: rounds for name, function in functions.items() if (rounds := rounds_without_a_jump(function))}
    assert not found
