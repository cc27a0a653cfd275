import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from server import free_port
from tiny import ROWS

from piip.catalogue.listing import list_rows
from piip.catalogue.overrides import parse_override
from piip.catalogue.preflight import check_device, cost_of
from piip.options import UsageError
from piip.spec import PaperResult
from piip.sweeps import cli
from piip.sweeps.cli import Options, choose_scale, main, place_home, select
from piip.sweeps.own_data import OwnData

NAMES = [row.name for row in ROWS["pico"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim.lr=3e-4", ("optim.lr", 3e-4)),
        ("train.batch_size=8", ("train.batch_size", 8)),
        ("train.precision=bf16", ("train.precision", "bf16")),
        ("optim.clip_norm=None", ("optim.clip_norm", None)),
        ("a=True", ("a", True)),
        ("optim.milestones=[0.5, 0.9]", ("optim.milestones", [0.5, 0.9])),
        ("name=a=b", ("name", "a=b")),
    ],
)
def test_an_override_is_a_name_and_a_value(text, expected):
    assert parse_override(text) == expected


def test_an_override_without_a_value_is_refused():
    with pytest.raises(ValueError, match=re.escape("--set takes NAME=VALUE, got 'optim.lr'")):
        parse_override("optim.lr")


def test_the_scale_is_the_papers_where_its_data_is(monkeypatch, tmp_path):
    rows = {"pico": ROWS["pico"], "coco": []}
    assert choose_scale(rows, None)[0] == "pico"
    assert "data is made here" in choose_scale(rows, None)[1]
    assert choose_scale(rows, None, own_data=True) == (
        "pico",
        "small networks, on your own data (--scale coco takes the paper's)",
    )
    assert choose_scale({"ade20k": []}, None) == ("ade20k", "the only one here")

    monkeypatch.setenv("PIIP_DATA", str(tmp_path))
    for scale in ("coco", "ade20k"):
        (tmp_path / scale).mkdir()
        assert choose_scale({"pico": [], scale: []}, None) == (scale, f"{tmp_path / scale} is there")
    assert choose_scale(rows, "pico") == ("pico", "as asked")


@pytest.mark.parametrize("scales", [["pico"], ["pico", "coco"], ["ade20k"]])
def test_a_scale_is_one_of_the_files_own(scales, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(dict.fromkeys(scales, ROWS["pico"]), experiment="tiny", description="", arguments=["--scale", "large"])

    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert leaving.value.code == 2
    expected = re.findall(r"'(\w+)'", said.partition("Expected one of")[2])
    assert sorted(expected) == sorted(scales)


def test_rows_are_chosen_by_name_and_changed_by_overrides():
    chosen = select(ROWS["pico"], Options((NAMES[1],), set=("optim.lr=0.25",)))

    assert [(spec.name, spec.optim.lr) for spec in chosen] == [(NAMES[1], 0.25)]
    with pytest.raises(
        ValueError, match=re.escape(f"no row 'mask_rcnn_vit_b'. Nearest: {NAMES[1]!r}. All rows: --list")
    ):
        select(ROWS["pico"], Options(("mask_rcnn_vit_b",)))


def test_a_misspelt_field_names_the_nearest():
    with pytest.raises(ValueError, match=r"optim\.lr"):
        select(ROWS["pico"], Options(set=("optim.lrr=1",)))


def asked(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the experiment's command line."""
    with pytest.raises(SystemExit) as leaving:
        main(ROWS, experiment="tiny", description="", arguments=arguments)
    return leaving.value.code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (
            ["--max-gflops", "0.01"],
            rf"error: {NAMES[0]} costs \d+\.\d\d GFLOPs, more than --max-gflops 0\.01; {NAMES[1]}",
        ),
        ([NAMES[1], "--max-memory-gb", "0.001"], rf"error: {NAMES[1]} takes \d\.\d\d GB a worker, more than --max-m"),
    ],
)
def test_rows_over_the_budget_are_refused_before_anything_starts(capsys, flags, reason):
    code, out, err = asked(capsys, *flags)

    assert (code, out) == (1, "")
    assert re.match(reason, err.splitlines()[-1])
    assert err.endswith("Name the rows within the budget (see --list), or raise it.\n")


@pytest.mark.parametrize("asked_for", [[], ["--list"]])
@pytest.mark.parametrize(
    ("flags", "kernel", "said"),
    [
        (
            ["--set", "speed.attention=flash", "--set", "train.precision=bf16"],
            "",
            "speed.attention='flash' cannot run: it runs on a CUDA GPU, the network is on cpu. Take 'auto' or 'sdpa'. "
            "Or give each worker a GPU: --gpus-per-worker 1.",
        ),
        ([], "quick", "PIIP_KERNEL='quick': no such kernel. There are: auto, cpp, cuda, triton, reference"),
        (
            [],
            "triton",
            "PIIP_KERNEL='triton' runs on a CUDA GPU, the tensors are on cpu. Take 'auto' or 'reference'. Or",
        ),
        (["--set", "speed.kernel=cuda"], "", "kernel='cuda' runs on a CUDA GPU, the tensors are"),
    ],
)
def test_what_needs_a_gpu_is_refused_before_anything_starts(capsys, monkeypatch, asked_for, flags, kernel, said):
    monkeypatch.setenv("PIIP_KERNEL", kernel)
    monkeypatch.setattr("piip.data.demo.make.ensure_demo", lambda folder: pytest.fail("went on"))

    code, out, err = asked(capsys, *asked_for, *flags)

    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"error: {said}")


def test_what_workers_can_run_is_not_refused(monkeypatch):
    flash = [spec.override({"speed.attention": "flash", "train.precision": "bf16"}) for spec in ROWS["pico"]]
    check_device(flash, gpus_per_worker=1)
    for kernel in ("", "auto", "cpp", "reference"):
        monkeypatch.setenv("PIIP_KERNEL", kernel)
        check_device(ROWS["pico"], gpus_per_worker=0)
    monkeypatch.setenv("PIIP_KERNEL", "triton")
    check_device(flash, gpus_per_worker=1)
    cpp = [spec.override({"speed.kernel": "cpp"}) for spec in ROWS["pico"]]
    check_device(cpp, gpus_per_worker=0)  # a row's own kernel goes before the variable
    monkeypatch.setenv("PIIP_KERNEL", "quick")
    with pytest.raises(ValueError, match="PIIP_KERNEL='quick': no such kernel"):
        check_device(flash, gpus_per_worker=1)


def test_the_list_leaves_out_what_a_sweep_would_refuse_and_says_why(capsys):
    costs = {spec.name: cost_of(spec).gflops for spec in ROWS["pico"]}
    dear, cheap = sorted(costs, key=costs.__getitem__, reverse=True)

    code, out, err = asked(capsys, "--list", "--json", "--max-gflops", str((costs[dear] + costs[cheap]) / 2))

    assert code == 0
    assert [entry["name"] for entry in json.loads(out)] == [cheap]
    assert f"left out: {dear} costs {costs[dear]:.2f} GFLOPs, more than --max-gflops" in err
    assert "left out: 1 of 2 rows" in err
    assert asked(capsys, "--list", "--max-memory-gb", "0.001")[:2] == (0, "")
    assert "left out" not in asked(capsys, "--list", "--max-gflops", "100")[2]


BIRDS = OwnData(train_images=Path("/data/birds/train"), val_images=Path("/data/birds/val"))


def names(own: OwnData, *changes: str) -> set[str]:
    return {spec.data.name for spec in select(ROWS["pico"], Options(own=own, set=changes))}


def test_own_data_has_the_name_of_its_folder_or_the_one_it_is_given():
    assert names(BIRDS) == {"birds"}
    assert names(BIRDS, "data.name=wild_birds", "optim.lr=1") == {"wild_birds"}
    assert names(OwnData()) == {"demo"}


@pytest.mark.parametrize("name", ["coco", "demo"])
def test_own_data_cannot_pass_for_other_data(name):
    with pytest.raises(
        UsageError, match=f"--set data.name={name}: that is the name of other data.* leave it out: birds"
    ):
        names(BIRDS, f"data.name={name}")


@pytest.mark.parametrize("name", ["a/b", "", "x" * 61, "two words"])
def test_a_name_of_data_is_a_word(name):
    with pytest.raises(UsageError, match=r"--set data\.name: "):
        names(BIRDS, f"data.name={name}")


def test_own_data_has_an_experiment_of_its_own(monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "_train", lambda specs, custom, experiment, options: asked.append(experiment) or 0)
    monkeypatch.setattr(cli, "check_there", lambda *_: None)
    monkeypatch.setattr(cli, "sources_of", lambda *_: {})
    paths = ("--train-annotations", "--train-images", "--val-annotations", "--val-images")
    own = [word for flag in paths for word in (flag, f"/data/birds/{flag[2:]}")]

    for arguments in ([], own, [*own, "--set=data.name=wild"], [*own, "--experiment=mine"]):
        with pytest.raises(SystemExit):
            main(ROWS, experiment="tiny", description="", arguments=arguments)

    assert asked == ["tiny_pico", "tiny_pico_birds", "tiny_pico_wild", "mine"]


def test_the_list_is_one_json_document(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(ROWS, experiment="tiny", description="", arguments=["--list", "--json"])

    entries = json.loads(capsys.readouterr().out)
    assert leaving.value.code == 0
    assert [entry["name"] for entry in entries] == NAMES
    assert all(entry["gflops"] > 0 and entry["params_m"] > 0 for entry in entries)


def test_the_list_has_the_papers_columns_where_the_paper_has_figures(capsys):
    printed = ROWS["pico"][0].override({"name": "printed", "paper": PaperResult(gflops=243).model_dump()})

    list_rows(ROWS["pico"], as_json=False)
    ours = capsys.readouterr().out
    list_rows([*ROWS["pico"], printed], as_json=False, markdown=True)
    both = capsys.readouterr().out.splitlines()

    assert NAMES[0] in ours
    assert "paper" not in ours
    assert both[0] == "| row | real GFLOPs | params M | paper's |"
    assert [line.split(" | ")[-1] for line in both[2:]] == ["- |", "- |", "243 |"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "train.batch_size=three"], "batch_size"),
        (["no_such_row"], f"error: no row 'no_such_row'. There are: {', '.join(NAMES)}. All rows: --list"),
    ],
)
def test_a_mistake_in_words_is_one_line_and_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(ROWS, experiment="tiny", description="", arguments=arguments)

    printed = capsys.readouterr()
    assert leaving.value.code == 2
    assert message in printed.err.splitlines()[-1]
    assert printed.out == ""


def test_a_submitted_job_writes_outside_the_copy_it_runs_in(monkeypatch):
    place = Path("/tmp/ray/session_x/runtime_resources/working_dir_files/_ray_pkg_y")
    monkeypatch.setattr("piip.home.package_root", lambda: place)
    monkeypatch.setattr("piip.home.in_checkout", lambda: True)

    place_home()
    assert place not in Path(_home()).parents  # a given PIIP_HOME stays
    monkeypatch.delenv("PIIP_HOME")
    place_home()
    assert _home() == str(Path.home() / "piip_runs")


def _home() -> str:
    import os

    return os.environ["PIIP_HOME"]


@pytest.mark.parametrize(
    ("arguments", "processes"),
    [
        (["--loader-processes", "3"], 3),
        (["--gpus-per-worker", "1", "--cpus-per-worker", "8"], 7),
        (["--gpus-per-worker", "1", "--cpus-per-worker", "8", "--loader-processes", "0"], 0),
        (["--gpus-per-worker", "1", "--cpus-per-worker", "2"], 0),
        (["--cpus-per-worker", "8"], 0),
    ],
)
def test_what_a_worker_may_take_is_passed_on(arguments, processes, capsys, monkeypatch):
    launched = []
    monkeypatch.setattr("piip.data.demo.make.ensure_demo", lambda folder: folder)
    monkeypatch.setattr(
        "piip.sweeps.launch.run_sweep",
        lambda sweep: launched.append(sweep) or SimpleNamespace(failed=[], interrupted=False),
    )
    monkeypatch.setattr("piip.sweeps.summary.print_outcome", lambda *_, **__: None)

    with pytest.raises(SystemExit):
        main(ROWS, experiment="tiny", description="", arguments=["--workers", "2", *arguments])

    (sweep,) = launched
    assert (sweep.resources.workers, sweep.resources.loader_processes) == (2, processes)


def test_a_cluster_that_is_gone_is_said_before_data_are_drawn(capsys, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr("piip.data.demo.make.ensure_demo", lambda folder: pytest.fail("drew first"))

    with pytest.raises(SystemExit) as ended:
        main(ROWS, experiment="tiny", description="", arguments=[])

    assert ended.value.code == 1
    assert "no Ray cluster answers at RAY_ADDRESS" in capsys.readouterr().err
