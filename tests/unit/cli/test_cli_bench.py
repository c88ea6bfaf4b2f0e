"""`causeway bench` shows what a run found: table, chart, who was left out; and says what to do where it cannot."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from causeway.cli.bench import row
from causeway.cli.bench_chart import chart
from causeway.cli.bench_result import Result, Unreadable, read

STORED = Path(__file__).with_name("bench_result.json")
PROGRAM = [sys.executable, "-c", "from causeway.cli.main import run; run()", "bench"]
SVG = "{http://www.w3.org/2000/svg}"
FAKE_RUN = """
import pathlib, shutil, sys
if "--only" in sys.argv:
    print("bench: cannot measure: network namespaces need root", file=sys.stderr)
    sys.exit(3 if "tcp-crr" in sys.argv else 2)
assert "--brief" in sys.argv and "--quick" in sys.argv, sys.argv
path = pathlib.Path(sys.argv[sys.argv.index("--results") + 1]) / "found.json"
shutil.copy({stored!r}, path)
print("direct: up")
print(f"results: {{path}}")
"""


@pytest.fixture
def result() -> Result:
    return read(STORED)


@pytest.fixture
def bench_dir(tmp_path: Path) -> Path:
    (tmp_path / "run.py").write_text(FAKE_RUN.format(stored=str(STORED)))
    return tmp_path


def _bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *words], capture_output=True, text=True, timeout=60, check=False)


def test_a_row_compares_the_figure_and_the_cpu_each_with_its_best_peer(result: Result) -> None:
    rows = {workload.name: row(workload) for workload in result.workloads}
    assert rows["bulk-up-4"] == (
        "bulk-up-4",
        "7.89 Gbit/s",
        "haproxy-splice 6.37",
        "1.27 [1.08 - 1.46]",
        "0.335",
        "haproxy-splice 0.342",
        "0.98 [0.95 - 1.01]",
        "CPU s per GB",
    )
    assert rows["tcp-lat"][4:] == ("-", "-", "-", "")  # a latency has no CPU for a unit


def test_every_bar_of_the_chart_is_named_and_numbered(result: Result) -> None:
    drawn = ET.fromstring(chart(result))
    bars = drawn.findall(f"{SVG}rect")[1:]  # the first is the ground
    figures = [found for workload in result.workloads for found in workload.figures.values()]
    assert len(bars) == len(figures) + sum(found.cost is not None for found in figures)
    words = [text.text for text in drawn.findall(f"{SVG}text")]
    assert words.count("causeway") == 8  # five workloads, three with CPU beside
    assert {"Connections, closed by FIN", "CPU of the proxy, s per GB, shorter is better", "Left out: envoy"} <= set(
        words
    )


def test_bars_are_as_long_as_their_figures_and_nothing_leaves_the_picture(result: Result) -> None:
    [crr] = [workload for workload in result.workloads if workload.name == "tcp-crr"]
    drawn = ET.fromstring(chart(Result("", "", {}, {}, (crr,))))
    width = float(drawn.attrib["width"])
    bars = drawn.findall(f"{SVG}rect")[1 : 1 + len(crr.figures)]
    lengths = [float(bar.attrib["width"]) / found.value for bar, found in zip(bars, crr.figures.values(), strict=True)]
    assert max(lengths) == pytest.approx(min(lengths), rel=0.01)
    for text in drawn.findall(f"{SVG}text"):
        length = len(text.text or "") * float(text.attrib["font-size"]) * 0.62
        left = float(text.attrib["x"]) - (length if text.attrib["text-anchor"] == "end" else 0)
        assert left >= 0 and left + length <= width, text.text


def test_names_in_a_result_cannot_break_the_chart(result: Result) -> None:
    hostile = Result("now", "<script>&\"'", {}, {"a<b": "x"}, result.workloads)
    assert "&lt;script&gt;&amp;" in chart(hostile)
    ET.fromstring(chart(hostile))


def test_a_run_ends_with_a_table_a_chart_and_who_was_left_out(bench_dir: Path) -> None:
    done = _bench("--quick", "--bench-dir", str(bench_dir), "--results", str(bench_dir))
    assert done.returncode == 0, done.stderr
    assert "direct: up" in done.stderr
    assert "left out: envoy: envoy is not installed; run: make bench-deps" in done.stdout
    assert "mem-5000   1,466 B RSS/conn  haproxy" in done.stdout
    assert (bench_dir / "found.svg").read_text().startswith("<svg ")


def test_json_is_all_that_stdout_holds(bench_dir: Path) -> None:
    done = _bench("--quick", "--bench-dir", str(bench_dir), "--results", str(bench_dir), "-o", "json")
    answer = json.loads(done.stdout)
    assert answer["not_measured"].keys() == {"envoy"}
    assert [workload["name"] for workload in answer["workloads"]][:2] == ["tcp-crr", "bulk-up-4"]


def test_a_bench_that_cannot_measure_fails_with_its_own_words(bench_dir: Path) -> None:
    done = _bench("--only", "tcp-crr", "--bench-dir", str(bench_dir))
    assert (done.returncode, done.stdout) == (1, "")
    assert "network namespaces need root" in done.stderr


def test_a_workload_that_does_not_exist_is_wrong_usage(bench_dir: Path) -> None:
    assert _bench("--only", "nonsense", "--bench-dir", str(bench_dir)).returncode == 2


def test_without_the_bench_it_says_where_to_find_it(tmp_path: Path) -> None:
    done = _bench("--bench-dir", str(tmp_path))
    assert done.returncode == 2
    assert f"{tmp_path}/run.py does not exist; --bench-dir names the folder bench of a checkout" in done.stderr


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}'])
def test_a_file_that_is_no_result_is_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(Unreadable, match=r"other\.json"):
        read(path)
