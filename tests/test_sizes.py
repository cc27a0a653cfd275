import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def sizes(*folders) -> list[str]:
    command = [sys.executable, str(ROOT / "tests" / "sizes.py"), *map(str, folders)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_files_and_functions_are_counted(tmp_path):
    (tmp_path / "short.py").write_text("x = 1\n")  # of less than five lines: left out
    (tmp_path / "one.py").write_text("def f():\n    def g():\n        return 1\n\n    return g\n")
    (tmp_path / "two.py").write_text("class C:\n    def h(self):\n        return 2\n" + "\n" * 7)

    assert sizes(tmp_path) == [
        "files: 2, lines: median 10, p90 10, max 10",
        f"      10 {tmp_path}/two.py",
        f"       5 {tmp_path}/one.py",
        "functions: 3, lines: median 2, p90 5, max 5",
        f"       5 {tmp_path}/one.py:1 f",
        f"       2 {tmp_path}/one.py:2 g",
        f"       2 {tmp_path}/two.py:2 h",
    ]


def test_an_empty_folder_has_none(tmp_path):
    assert sizes(tmp_path) == ["files: none", "functions: none"]


def test_unasked_it_counts_the_package_and_the_experiments():
    assert int(sizes()[0].split()[1].rstrip(",")) > 100
