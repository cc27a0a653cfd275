"""The same command on clusters that others started: two nodes, and `ray start --head` with `ray job submit`."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from server import free_port
from sweeping import ROOT, SweepCommand, clean_environment, data_flags, journaled, tracked
from tiny import ROWS
from waiting import LONG, wait_for

from piip.catalogue.rows import load_tables
from piip.spec import CNNSpec
from piip.tracking.store import Store

RESNET = next(
    row
    for row in load_tables(ROOT / "experiments" / "sweep_resolutions.py")["pico"]
    if isinstance(row.model.backbone, CNNSpec)
)
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b1" * 32}
# Ray's own niceness of 15 gives workers only what the tests in the other process leave
BESIDE_OTHERS = TOKEN | {"RAY_worker_niceness": "0"}


@pytest.fixture(scope="module")
def two_nodes():
    """The address of a cluster of a head and two nodes with one CPU each."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parents[1] / "support" / "two_nodes.py"), str(free_port())],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment(**BESIDE_OTHERS),
    )  # fmt: skip
    assert process.stdout
    yield process.stdout.readline().strip()
    end_by_force(process)


def end_by_force(cluster: subprocess.Popen) -> None:
    """Not Ray's own way down: it takes 35 s and is no part of what is tested."""
    children = psutil.Process(cluster.pid).children(recursive=True)
    cluster.kill()
    cluster.wait()
    end(children)


def end(processes: list[psutil.Process]) -> None:
    """Kills those that have not ended by themselves (Ray's agents take 30 s to see that their cluster is gone)."""
    _, alive = psutil.wait_procs(processes, timeout=2)
    for process in alive:
        process.kill()


@pytest.mark.slow
def test_a_trial_of_two_workers_spreads_over_two_nodes(two_nodes, new_home, data):
    home = new_home("two_nodes")
    row = ROWS["pico"][1].name

    with SweepCommand(home, data, "--workers=2", "--set=train.steps=6", row, RAY_ADDRESS=two_nodes, **TOKEN) as command:
        document = command.finish()

    assert "1 trials, 1 at once, 2 worker(s) each, on 2 CPU" in command.stderr
    (run,) = (run for run in Store(f"sqlite:///{home / 'mlflow.db'}").find_runs("tiny_pico_squares") if run.name == row)
    assert (run.status, document["failed"]) == ("FINISHED", [])
    assert (run.tags["piip.workers"], run.tags["hardware.nodes"]) == ("2", "2")
    assert len(set(run.tags["hardware.node_ids"].split(","))) == 2
    assert tracked(home / "mlflow.db") == journaled(home)


@pytest.fixture
def blind_node(two_nodes, new_home):
    """A home that the cluster's third node does not see: a mount namespace of its own covers the folder there."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces need root")
    home = new_home("unshared")
    home.mkdir(parents=True, exist_ok=True)
    start = f"mount -t tmpfs none {home} && exec ray start --address={two_nodes} --num-cpus=1 --block"
    environment = clean_environment(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", **TOKEN)
    with (home.parent / "blind_node.log").open("w") as log:
        node = subprocess.Popen(["unshare", "--mount", "sh", "-c", start], env=environment, stdout=log, stderr=log)
    wait_for(lambda: node.poll() is not None or "Ray runtime started" in Path(log.name).read_text())
    assert node.poll() is None, Path(log.name).read_text()
    yield home
    children = psutil.Process(node.pid).children(recursive=True)
    node.terminate()
    node.wait(LONG)
    end(children)


@pytest.mark.long
def test_a_home_that_a_node_does_not_see_is_refused_before_anything_starts(two_nodes, blind_node, data):
    with SweepCommand(blind_node, data, ROWS["pico"][1].name, RAY_ADDRESS=two_nodes, **TOKEN) as command:
        assert command.process.wait(LONG) == 1

    assert f"error: PIIP_HOME={blind_node} is not seen by " in command.stderr
    assert "Put it on storage that every node mounts at the same path." in command.stderr
    assert not list(blind_node.glob("**/model.safetensors"))


@pytest.fixture
def head():
    """`ray start --head` of its own, as a person has it; the environment to talk to it with."""
    folder = Path(tempfile.mkdtemp(prefix="piip", dir="/tmp"))  # sockets below it need a short path
    environment = clean_environment(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", **BESIDE_OTHERS)
    del environment["PYTHONPATH"]  # the job's code comes from its working directory
    dashboard = free_port()
    ports = {
        "port": free_port(), "dashboard-port": dashboard, "ray-client-server-port": free_port(),
        "dashboard-agent-listen-port": free_port(),
    }  # fmt: skip
    command = [
        "ray",
        "start",
        "--head",
        "--num-cpus=2",
        f"--temp-dir={folder / 'ray'}",
        "--block",
        "--disable-usage-stats",
    ]
    log = (folder / "start.log").open("w")
    process = subprocess.Popen(
        [*command, *(f"--{name}={port}" for name, port in ports.items())], env=environment, stdout=log, stderr=log
    )
    wait_for(lambda: process.poll() is not None or "Ray runtime started" in (folder / "start.log").read_text())
    assert process.poll() is None, (folder / "start.log").read_text()
    yield environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    end_by_force(process)
    log.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_ray_job_submit_runs_an_experiment_file(head, new_home, data):
    home = new_home("job")
    job = json.dumps({"env_vars": {"PIIP_HOME": str(home)}})
    changes = {
        "train.steps": 4,
        "train.batch_size": 2,
        "model.backbone.resolution": 128,
        "model.backbone.pretrained": "false",
    }
    command = ["ray", "job", "submit", "--working-dir", ".", "--runtime-env-json", job, "--"]
    command += ["python", "experiments/sweep_resolutions.py", "--scale=pico", RESNET.name, "--json", *data_flags(data)]
    command += [f"--set={name}={value}" for name, value in changes.items()]

    done = subprocess.run(command, cwd=ROOT, env=head, capture_output=True, text=True, timeout=LONG, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    (document,) = (json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"experiment"'))
    assert (document["experiment"], document["failed"]) == ("sweep_resolutions_pico_squares", [])
    runs = Store(f"sqlite:///{home / 'mlflow.db'}").find_runs("sweep_resolutions_pico_squares")
    (run,) = (run for run in runs if run.name == RESNET.name)
    assert (run.status, run.tags["hardware.nodes"]) == ("FINISHED", "1")
    assert run.tags["piip.checkpoint"].startswith(str(home))
    assert tracked(home / "mlflow.db") == journaled(home)
