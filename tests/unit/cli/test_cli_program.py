"""The program as a whole, as far as no server is needed: help, completion, exit codes, what `up` becomes."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from causeway import __version__

PROGRAM = [sys.executable, "-c", "from causeway.cli.main import run; run()"]
HELP_CPU_S = 0.5  # 0.13 s on the machine it was written on; rich or pydantic alone would double that
HEAVY = ("rich", "httpx", "pydantic", "asyncio", "numpy")
SERVER_SIDE = ("causeway.control", "causeway.store", "causeway.api", "causeway.native", "causeway._core")


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CAUSEWAY_")}
    return subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**kept, **environment},
        timeout=60,
        check=False,
    )


COMMANDS = [
    "",
    "up",
    "edge",
    "control",
    "copy-database",
    "doctor",
    "status",
    "tail",
    "bench",
    *(f"apps {verb}" for verb in ("create", "list", "show", "update", "delete")),
    *(f"zones {verb}" for verb in ("create", "list", "delete")),
    *(f"lab {verb}" for verb in ("up", "down", "fail", "heal", "link", "shell", "status")),
    "pops",
    "pops drain",
    "routes explain",
    "routes replay",
    *(f"tokens {verb}" for verb in ("create", "list", "revoke")),
    *(f"firewall {verb}" for verb in ("list", "add", "remove", "import")),
    "geo update",
    "why-blocked",
    "attacks",
    "attacks show",
    "mitigation",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    answer = run(*command.split(), "--help", folder=tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("Usage: ")
    assert "--token " not in answer.stdout  # arguments show in ps


def test_help_is_quick_in_processor_time(tmp_path: Path) -> None:
    def cpu_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    costs = []
    for _ in range(5):
        before = cpu_s()
        run("--help", folder=tmp_path)
        costs.append(cpu_s() - before)
    assert min(costs) < HELP_CPU_S, costs


@pytest.mark.parametrize("arguments", [["--help"], ["apps", "create", "--help"], ["--version"]])
def test_help_loads_nothing_heavy_and_nothing_of_the_server(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['causeway', *{arguments!r}]\n"
        "from causeway.cli.main import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "print('LOADED', *sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(answer.stdout.rpartition("LOADED")[2].split())
    assert not loaded & {*HEAVY, *SERVER_SIDE}


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    assert run("--version", folder=tmp_path).stdout == f"causeway {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_commands_and_options(shell: str, tmp_path: Path) -> None:
    environment = {
        "_CAUSEWAY_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "causeway apps create --or",
        "COMP_CWORD": "3",
        "_TYPER_COMPLETE_ARGS": "causeway apps create --or",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    code = "import sys; sys.argv = ['causeway']; from causeway.cli.main import run; run()"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )
    assert "--origin-dns" in answer.stdout


MISUSES = [  # arguments                                      said
    ("apps list --url 127.0.0.1", "http://HOST:PORT"),
    ("apps list --token-file nowhere", "nowhere"),
    ("apps list", "CAUSEWAY_API_TOKEN"),
    ("apps create -f nowhere.json", "nowhere.json"),
    ("apps create -f x.json --preset ssh", "not both"),
    ("apps create --preset gopher", "gopher"),
    ("apps list -o yaml", "yaml"),
    ("apps show", "APP"),
    ("apps crate", "create"),
    ("nothing", "nothing"),
    ("up --workers -1", "--workers"),
    ("tokens create x --scope all", "--scope"),
]


@pytest.mark.parametrize(("arguments", "said"), MISUSES)
def test_wrong_usage_exits_2_and_says_what_was_wrong(arguments: str, said: str, tmp_path: Path) -> None:
    answer = run(*arguments.split(), folder=tmp_path)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_server_that_is_not_there_exits_3_and_names_the_next_step(tmp_path: Path) -> None:
    answer = run("status", "--url", "http://127.0.0.1:1", folder=tmp_path, CAUSEWAY_API_TOKEN="a" * 40)
    assert (answer.returncode, answer.stdout) == (3, "")
    assert "http://127.0.0.1:1" in answer.stderr
    assert "causeway up" in answer.stderr


def test_up_becomes_the_server_with_the_flags_given_and_the_same_pid(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "os.execv = lambda path, argv: print(path == sys.executable, argv[1:])\n"
        "sys.argv = ['causeway', 'up', '--data-dir', 'd', '--edge-ip', '::1', '--edge-ip', '127.0.0.1',"
        " '--workers', '2', '--allow-loopback-origins', '--deny-origins', '10.0.0.0/8',"
        " '--resolver', '1.1.1.1:53', '--api', '127.0.0.1:1']\n"
        "from causeway.cli.main import run; run()"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout == (
        "True ['-m', 'causeway.up', '--data-dir=d', '--api=127.0.0.1:1', '--edge-ip=::1',"
        " '--edge-ip=127.0.0.1', '--workers=2', '--allow-loopback-origins',"
        " '--deny-origins=10.0.0.0/8', '--resolver=1.1.1.1:53']\n"
    )
