"""Where a verb prints to: terminals without letters, streams that are closed, a folder that is gone."""

import os
import subprocess
import sys

from piip.home import package_root

ROOT = package_root()


def said(script: str, *closed: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a guarded verb prints; `closed`: streams as a shell closes them, `>&-`."""
    line = f"from piip.console import guarded\nimport os, sys\ndef verb():\n    {script}\nsys.exit(guarded(verb))"
    command = ["sh", "-c", f'exec "$0" -c "$1" {" ".join(closed)}', sys.executable, line]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False, encoding="utf-8"
    )


def test_a_letter_that_the_terminal_has_not_costs_no_table():
    done = said("print('AP ↑ größer', flush=True)", PYTHONIOENCODING="ascii")

    assert (done.returncode, done.stdout, done.stderr) == (0, "AP ? gr??er\n", "")


def test_nothing_is_read_or_printed_where_streams_are_closed(tmp_path):
    file = tmp_path / "file"
    script = f"print('lost'); handle = open({str(file)!r}, 'w'); os.system('echo lost too'); handle.write(str(handle.fileno() > 2))"

    done = said(script, "<&-", ">&-", "2>&-")

    assert done.returncode == 0
    assert file.read_text() == "True"


def test_an_error_is_an_exit_code_where_nobody_hears_of_it():
    assert said("raise ValueError('x')", ">&-", "2>&-").returncode == 1


def test_a_folder_that_is_gone_is_said(tmp_path):
    done = said(f"os.chdir({str(tmp_path)!r}); os.rmdir({str(tmp_path)!r}); os.getcwd()")

    assert (done.returncode, done.stderr) == (
        1,
        "error: the folder that this was typed in is gone: cd to one that is there\n",
    )
