"""The Ray cluster: the one that RAY_ADDRESS names (a submitted job has it set), or one of our own on this machine."""

import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
from ray.util.placement_group import PlacementGroup, remove_placement_group

from piip import home
from piip.sweeps.folder import Folder, own_folder
from piip.sweeps.reach import ADDRESS, reach

log = logging.getLogger(__name__)

ANSWER_S = 300.0
"""How long a node may take to run a first line: it starts a process for it."""

# Ray reads these when its processes start, so they are set before ray.init (facts: Train's polling costs up to 2 s a report;
# workers at nice 15 starve on a laptop; reused trial actors would keep a broken process group)
PROCESS_ENV = {
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # a trial that failed before its first score ends alone: Tune would end an ASHA sweep with it
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ctrl-C is listened for in interrupt.py
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # a job's own environment (ray job submit --runtime-env-json) and the variables below may both name PIIP_HOME
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
}
# a cluster of our own has no nodes that come and go: no process that watches for it, one less to start for each trial
LOCAL_ENV = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_METRICS_ENABLED": "0"}
# Ray's lines that tell a person nothing to act on: that a local cluster has a token; that Tune keeps no result files
# (the journals are what is kept)
CHATTY = ("ray._private.authentication.authentication_token_setup", "ray.tune.analysis.experiment_analysis")
# what Tune says of an interrupted sweep: how to go on with Tune alone, and that trials are not done, which our table says
OF_INTERRUPTS = ("Stop signal received", "Experiment has been interrupted", "Trials did not complete")
# and these must reach the workers
WORKER_ENV = (
    "PIIP_HOME",
    "PIIP_DATA",
    "PIIP_STORAGE",
    "PIIP_KERNEL",
    "DS_ACCELERATOR",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S",
    *LOCAL_ENV,
    "CXX",
)


@dataclass
class Joined:
    """A cluster that this process is connected to."""

    resources: Mapping[str, float]
    folder: Folder | None
    """Where a Ray of our own keeps its files; None where others started the cluster."""

    def keep_logs(self, place: Path) -> str:
        """Has what Ray's processes wrote kept; returns where a person finds it.

        Args:
            place: A folder of this name is made of the logs of a Ray of our own, when it is down.
        """
        if self.folder:
            self.folder.keep_logs_at = place
            return str(place)
        return "the folder of the cluster's logs on each of its nodes, /tmp/ray/session_latest/logs unless it was started otherwise"


@contextmanager
def connected(*, num_cpus: int | None = None) -> Iterator[Joined]:
    """Join the cluster that RAY_ADDRESS names; where it names none, start one, which ends with the block.

    Raises:
        ConnectionError: No cluster answers there.
        ValueError: A node does not see this machine's PIIP_HOME, or there is no place for Ray's sockets.
    """
    address = _named()
    own = address is None
    with own_folder() if own else nullcontext() as folder:
        try:
            options = _options(folder)
            if address is None:
                _start(num_cpus or os.cpu_count(), options)
            else:
                _join(address, options)
            _check_home_is_shared()
            yield Joined(ray.cluster_resources(), folder)
        finally:
            ray.shutdown()


def check_cluster() -> None:
    """Says before anything is drawn or read that the cluster which RAY_ADDRESS names is not there.

    Raises:
        ConnectionError: No cluster answers there.
        ValueError: It is no address.
    """
    if address := _named():
        _reach(address)


def _named() -> str | None:
    """The address of the cluster to join; None: a Ray of our own is wanted."""
    address = os.environ.get(ADDRESS, "")
    return None if address in ("", "local") else address


def _options(folder: Folder | None) -> dict[str, Any]:
    """What `ray.init` is told of any cluster; sets what Ray's processes read from the environment."""
    for name, value in (PROCESS_ENV | (LOCAL_ENV if folder else {})).items():
        os.environ.setdefault(name, value)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.tune.execution.tune_controller").addFilter(_in_one_line)
    logging.getLogger("ray.tune.tune").addFilter(_is_no_interrupt)
    os.environ.setdefault("PIIP_HOME", str(home.home()))
    # a checkout that is not installed is importable by the workers too
    path = os.pathsep.join(filter(None, [str(home.package_root()), os.environ.get("PYTHONPATH", "")]))
    env = {name: os.environ[name] for name in WORKER_ENV if name in os.environ} | {"PYTHONPATH": path}
    if folder:
        env["TMPDIR"] = str(folder.path)  # of loader processes' sockets, too; what a killed worker leaves goes with it
    return {"runtime_env": {"env_vars": env}, "log_to_driver": False, "logging_level": logging.WARNING}


def _start(num_cpus: int | None, options: Mapping[str, Any]) -> None:
    log.warning("starting Ray")
    # address="local": a file left by a crashed cluster would otherwise be taken for a running one
    try:
        ray.init(address="local", num_cpus=num_cpus, object_store_memory=256 * 2**20, **options)
    except Exception as error:
        if "timed out during startup" not in str(error):  # of no class of its own
            raise
        raise ConnectionError(
            f"Ray did not start within its 30 s, at a load of {os.getloadavg()[0]:.0f} on {os.cpu_count()} CPUs: "
            "the same command tries again, when less else is running"
        ) from None


def _join(address: str, options: Mapping[str, Any]) -> None:
    log.warning("joining the Ray cluster at %s", address)
    _reach(address)
    ray.init(address=address, **options)


def _reach(address: str) -> None:
    if _has_token():
        # a cluster whose head found a token asks for it; Ray's own default here would not send it
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    reach(address)


def _has_token() -> bool:
    """Whether Ray would find an authentication token on this machine."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    return "RAY_AUTH_TOKEN" in os.environ or file.is_file()


def _in_one_line(record: logging.LogRecord) -> bool:
    """A driver that died is started again: worth a line, not Ray's forty."""
    if record.exc_info and record.exc_info[1]:
        reason = str(record.exc_info[1]).strip().splitlines()[0]
        record.msg, record.args, record.exc_info = f"{record.getMessage()}: {reason}", (), None
    return True


def _is_no_interrupt(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(OF_INTERRUPTS)


def node_resources() -> list[dict[str, float]]:
    """What each live node offers."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def remove_left_placement_groups() -> None:
    """Give back what this job's dead actors hold: the CPUs of a Ray Train controller that was killed.

    A placement group lives as long as the job of the actor that made it. Ray Train's own cleaner removes a dead controller's
    sooner, but hears of it only once the workers are set up: after a kill before that, nobody would get those CPUs again.
    """
    job, nobody = ray.JobID.from_hex(ray.get_runtime_context().get_job_id()).binary(), ray.ActorID.nil().binary()
    # Ray's public table does not say who made a group
    for entry in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(entry)
        left = group.creator_actor_dead and group.creator_actor_id != nobody and group.creator_job_id == job
        if left and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


def _check_home_is_shared() -> None:
    """Every node must see the journals and checkpoints; asked once per node, before anything is trained.

    Raises:
        ValueError: A node does not see this machine's PIIP_HOME.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    if len(nodes) < 2:
        return
    token = home.home() / "shared" / secrets.token_hex(8)
    token.parent.mkdir(parents=True, exist_ok=True)
    token.touch()

    @ray.remote(num_cpus=0)
    def sees(path: str) -> bool:
        return os.path.exists(path)

    asked = {node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in nodes}
    try:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in asked]
        answers = [sees.options(scheduling_strategy=node).remote(str(token)) for node in there]
        names = dict(zip(answers, asked.values(), strict=True))
        done, silent = ray.wait(answers, num_returns=len(answers), timeout=ANSWER_S)
        blind = [names[answer] for answer in done if not ray.get(answer)]
    finally:
        token.unlink()
    if silent:
        raise ConnectionError(
            f"{', '.join(names[answer] for answer in silent)} ran nothing within {ANSWER_S:.0f} s. "
            "Look at the node (ray status), or remove it"
        )
    if blind:
        raise ValueError(
            f"PIIP_HOME={home.home()} is not seen by {', '.join(blind)}. Put it on storage that every node mounts at the same path."
        )
