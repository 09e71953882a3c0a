"""Every command is used as a person would type it, with budgets of seconds."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mabe_transfer import forecast as foretelling
from mabe_transfer import locks
from mabe_transfer.cli import Commands, app
from mabe_transfer.cli.training import pick_device
from mabe_transfer.errors import Interrupted, UserError
from mabe_transfer.forecast import Effort
from mabe_transfer.parts.dynamics import Ensemble
from mabe_transfer.parts.prior import Fit

TINY = [
    "--set", "dynamics.max_epochs=1",
    "--set", "dynamics.hidden=[16]",
    "--set", "dynamics.weight_decay=[0.0,0.0]",
    "--set", "prior.fit.updates=20",
    "--set", "prior.fit.hidden=[16,16]",
    "--set", "policy.hidden=[16,16]",
    "--set", "rollouts.starts=50",
    "--threads", "1",
]  # fmt: skip


def call(*words: str) -> Any:  # typer has a click of its own
    return CliRunner().invoke(app, list(words))


def refusal(*words: str) -> str:
    """The sentence of a refused command, which ends with exit code 2 and no traceback."""
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_package_runs_as_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["somewhere/__main__.py", "envs", "show", "hoper"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("mabe_transfer", run_name="__main__")
    assert ended.value.code == 2
    assert "Did you mean 'hopper'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with what was collected in two worlds, where a hopper falls after few steps."""
    root = tmp_path_factory.mktemp("collected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MABE_TRANSFER_DATA", str(root))
        for env in ("hopper", "hopper-ice-backward"):
            made = call("collect", "--env", env, "--quality", "random", "--transitions", "1500")
            assert made.exit_code == 0, made.output
    return root


@pytest.fixture
def datasets(collected: Path, data_root: Path) -> None:
    """The same in the data root of one test."""
    shutil.copytree(collected, data_root)


def test_envs_list_names_every_kind() -> None:
    rows = json.loads(call("envs", "list", "--json").output)
    assert {row["kind"] for row in rows} == {"robot", "shift", "task"}
    assert {"hopper", "ice", "backward"} <= {row["name"] for row in rows}


def test_envs_show_gives_units_and_reward() -> None:
    shown = call("envs", "show", "hopper-ice-backward").output
    assert "torso height [m]" in shown
    assert "-1 forward" in shown


def test_envs_check_prints_effective_friction() -> None:
    result = call("envs", "check", "hopper-friction=0.5")
    assert result.exit_code == 0
    assert "effective friction" in result.output


def test_unknown_robot_gets_the_nearest_name_and_exit_code_2() -> None:
    assert "Did you mean 'hopper'?" in refusal("envs", "show", "hoper")


def test_collect_wants_a_domain_or_a_recipe() -> None:
    assert "--env" in refusal("collect")
    assert "--recipe" in refusal("collect", "--env", "hopper", "--recipe", "halfcheetah-forward")


def test_options_beside_a_recipe_are_taken_under_another_name_and_never_ignored(
    data_root: Path,
) -> None:
    words = ("collect", "--recipe", "halfcheetah-forward", "--quality", "random")
    said = refusal(*words, "--transitions", "30")
    assert "--quality and --transitions would change the recipe halfcheetah-forward" in said
    assert not data_root.exists()
    assert call(*words, "--transitions", "30", "--out", "few").exit_code == 0
    (found,) = json.loads(call("data", "list", "--json").output)
    assert (found["transitions"], found["quality"]) == (30, "random")


def test_unknown_quality_is_refused() -> None:
    assert "medium-replay" in refusal("collect", "--env", "hopper", "--quality", "best")


def test_collect_never_overwrites(datasets: None) -> None:
    again = ("collect", "--env", "hopper", "--quality", "random", "--transitions", "10")
    assert "hopper-random" in refusal(*again)


def test_collected_dataset_is_listed_described_and_verified(datasets: None) -> None:
    listed = json.loads(call("data", "list", "--json").output)
    assert [row["transitions"] for row in listed] == [1500, 1500]
    assert "uniform actions" in call("data", "info", "hopper-random").output
    checked = call("data", "verify", "hopper-random", "--replay", "--sample", "50")
    assert checked.exit_code == 0, checked.output


def test_dataset_that_no_name_finds_is_listed_by_its_path(tmp_path: Path, data_root: Path) -> None:
    for out in (f"{data_root}/foo", f"{data_root}/sub/bar.zarr", "named"):
        command = ("collect", "--env", "hopper", "--quality", "random", "--transitions", "20")
        assert call(*command, "--out", out).exit_code == 0
    names = [row["name"] for row in json.loads(call("data", "list", "--json").output)]
    assert names == [f"{data_root}/foo", "named", f"{data_root}/sub/bar.zarr"]
    for name in names:
        assert call("data", "info", name).exit_code == 0
    assert "Did you mean 'named'" in refusal("data", "info", "name")


def test_what_the_file_system_refuses_is_one_sentence(tmp_path: Path) -> None:
    asked = typer.Typer(cls=Commands, pretty_exceptions_enable=False)

    @asked.command()
    def read() -> None:
        (tmp_path / "none" / "x").read_text()

    @asked.command()
    def fail() -> None:
        raise OSError("no file's fault")

    found = CliRunner().invoke(asked, ["read"])
    assert found.exit_code == 2
    assert " ".join(found.output.split()) == f"Error: {tmp_path}/none/x: No such file or directory."
    assert isinstance(CliRunner().invoke(asked, ["fail"]).exception, OSError)


def test_dataset_that_is_not_there_says_how_to_collect_it() -> None:
    said = refusal("train", "--dynamics", "hopper-expert", "--prior", "hopper-ice-expert")
    assert "mabe-transfer collect --env hopper --quality expert" in said


def test_train_evaluate_and_resume(datasets: None, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    command = [
        "train", "--dynamics", "hopper-random", "--prior", "hopper-ice-backward-random",
        "--seeds", "2", "--steps", "20", "--evaluate-every", "10", "--out", run, *TINY,
    ]  # fmt: skip
    made = call(*command)
    assert made.exit_code == 0, made.output
    assert "hopper-backward" in made.output
    again = call(*command)
    assert again.exit_code == 0, again.output
    played = call("evaluate", run, "--episodes", "1")
    assert played.exit_code == 0, played.output
    other = call("evaluate", run, "--episodes", "1", "--env", "hopper-ice-backward")
    assert other.exit_code == 0, other.output
    twice = json.loads(call("evaluate", run, run, "--episodes", "1", "--json").stdout)
    assert [(row["run"], row["seed"]) for row in twice] == [(run, 0), (run, 1)] * 2
    assert "policy stays as it starts" in " ".join(made.output.split())
    assert "is one video, and 2 runs" in refusal("render", run, run, "--out", "mine.mp4")
    kept = Path(run) / "video-hopper-backward-seed-0.mp4"
    kept.write_text("an earlier film")
    assert "--force" in refusal("render", run)
    kept.unlink()
    prior = Path(run) / "prior" / "prior.safetensors"
    assert "name the run's folder" in refusal("export", str(prior))
    assert "cannot act in walker2d" in refusal("evaluate", run, "--env", "walker2d")
    assert "cannot act in walker2d" in refusal("render", run, "--env", "walker2d")
    taken = Path(run) / "config.json"
    assert "--force" in refusal("render", run, "--out", str(taken))
    with locks.held(Path(run)):
        assert "Another process is at work" in refusal(*command)
    left = call("export", run, "--format", "safetensors")
    assert left.exit_code == 0, left.output
    assert "best of 0, 1 by its last evaluations" in " ".join(left.output.split())
    assert "seed" in refusal("train", *command[1:6], "3", *command[7:])


def test_train_takes_the_settings_of_a_scale_and_what_is_set_beside_it(
    datasets: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mabe_transfer.train.Trainer.run", stop)
    words = ("train", "--dynamics", "hopper-random", "--set", "policy.polyak=0.5", "--out")
    assert "short" in refusal(*words, str(tmp_path / "none"), "--scale", "shrt")
    found = {}
    for scale in ("full", "short", "cpu"):
        out = tmp_path / scale
        assert call(*words, str(out), "--scale", scale).exit_code == 130
        found[scale] = json.loads((out / "config.json").read_text())
    rows = {scale: config["row"] for scale, config in found.items()}
    assert {row["policy"]["polyak"] for row in rows.values()} == {0.5}
    assert [row["policy"]["discount"] for row in rows.values()] == [0.99, 0.98, 0.98]
    assert [row["policy"]["hidden"] for row in rows.values()] == [[256, 256]] * 2 + [[64, 64]]
    assert [one["schedule"]["updates"] for one in found.values()] == [100_000, 5_000, 5_000]


def stop(*_: object) -> None:
    raise Interrupted("Stopped before the first update.")


@pytest.mark.parametrize("words", [("--out", "afile"), ("--out", "afile/run")])
def test_run_that_is_no_folder_is_refused(
    words: tuple[str, str], datasets: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("afile").write_text("mine")
    said = refusal("train", "--algo", "bc", "--prior", "hopper-random", "--steps", "2", *words)
    assert "afile" in said
    assert Path("afile").read_text() == "mine"


def test_behaviour_of_one_robot_is_refused_in_another() -> None:
    said = refusal("behaviour", "evaluate", "hopper", "--env", "walker2d")
    assert "hopper holds policies of hopper; they cannot act in walker2d" in said


@pytest.mark.parametrize("device", ["mps", "cuda:99", "gpu"])
def test_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(UserError, match=f"--device {device}"):
        pick_device(device)


def test_evaluate_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    assert "no run" in refusal("evaluate", str(tmp_path))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("benchmark d4rl --algos ,", "--algos ',': expected names by commas"),
        ("benchmark d4rl --algos bc,bc", "--algos: 'bc' is named twice"),
        ("experiment figure3 --datasets ,", "--datasets ',': expected names by commas"),
        ("experiment figure6 --robots ,", "--robots ',': expected names by commas"),
        ("experiment matrix --shifts ice,ice", "--shifts: 'ice' is named twice"),
        ("envs reference hopper --seed -1", "--seed"),
        ("behaviour train hopper --out plain --run r --steps 1000", "--out plain: is a file"),
        ("envs show robot.toml", "robot.toml: is no domain, since it names no robot"),
        ("train --preset cql-v2/x --dynamics d", "cql-v2 is the same for all data"),
        ("benchmark show plain.json", "plain.json: holds no records of a benchmark"),
        ("export hopper --out .", "--out .: is a folder"),
        ("collect --env hopper --out=", "--out '': expected a name"),
        ("data verify mine --sample 3", "--sample 3: says how many rows --replay simulates"),
        ("algorithms list --json --markdown", "--json and --markdown: name one of them"),
    ],
)
def test_wrong_words_are_refused_before_any_work(
    words: str, sentence: str, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain").write_text("mine")
    Path("plain.json").write_text("{}")
    Path("robot.toml").write_text('name = "mine"')
    assert sentence in refusal(*words.split())
    assert not data_root.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "plain.json", "robot.toml"]


def test_data_root_that_is_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "afile").write_text("mine")
    monkeypatch.setenv("MABE_TRANSFER_DATA", str(tmp_path / "afile"))
    assert "is a file, and datasets lie in a folder" in refusal("data", "list")


def test_physics_that_is_certified_is_said_to_be() -> None:
    checked = " ".join(call("envs", "check", "hopper-ice").output.split())
    assert "Certified: what is declared differs by what is declared" in checked
    assert "hopper-backward has no shift" in call("envs", "check", "hopper-backward").output


def test_unknown_field_of_set_is_refused(datasets: None) -> None:
    words = ("train", "--dynamics", "hopper-random", "--set", "rollouts.horizont=3")
    assert "Did you mean 'horizon'?" in refusal(*words)


def test_algorithms_list_has_every_row() -> None:
    rows = json.loads(call("algorithms", "list", "--json").output)
    assert {"bc", "sac", "brac-v", "mopo", "mabe"} <= {row["row"] for row in rows}


def test_shipped_policies_are_listed_and_act_in_another_domain() -> None:
    assert "halfcheetah-ice-backward" in call("behaviour", "list").output
    words = ("halfcheetah-ice-backward", "--env", "halfcheetah-backward", "--episodes", "1")
    played = call("behaviour", "evaluate", *words)
    assert played.exit_code == 0, played.output
    assert "score" in played.output


@pytest.mark.slow
def test_main_job_leaves_a_table_and_a_picture(tmp_path: Path) -> None:
    made = call("experiment", "demo", "--scale", "smoke", "--seeds", "1", "--out", str(tmp_path))
    assert made.exit_code == 0, made.output
    assert "MABE" in (tmp_path / "table-smoke.md").read_text()
    assert (tmp_path / "curves-smoke.png").stat().st_size > 1000
    rows = json.loads((tmp_path / "table-smoke.json").read_text())["rows"]
    assert [row["row"] for row in rows] == ["-", "bc", "mabe-no-rl", "mopo", "mabe"]
    run = tmp_path / "mabe-smoke"
    if (tmp_path / "mabe-smoke.mp4").exists():  # something can draw on this machine
        filmed = call("render", str(run), "--steps", "1")
        assert filmed.exit_code == 0, filmed.output
        assert (run / "video-halfcheetah-backward-seed-100.mp4").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("figure6", "--scale", "smok"), "Did you mean 'smoke'"),
        (("figure6", "--robots", "hoper"), "Did you mean 'hopper'"),
        (("figure6", "--set", "rollouts.horizont=5"), "There is no field 'horizont'"),
        (("figure3", "--scale", "tiny"), "there is cpu, full, smoke"),
        (("figure4", "--datasets", "hoper-medium"), "Did you mean 'hopper-medium'"),
        (("table1", "--datasets", "hoper-medium"), "Did you mean 'hopper-medium'"),
        (("matrix", "--shifts", "icy"), "Did you mean 'ice'"),
    ],
)
def test_experiment_that_does_not_exist_is_refused_in_a_sentence(
    words: tuple[str, ...], message: str
) -> None:
    assert message in refusal("experiment", *words, "--device", "cpu")


def test_forecast_prints_its_numbers_and_its_verdict(
    datasets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del datasets
    small = Effort(
        rows=200, asked=50, model=Ensemble(members=2, elites=2, hidden=(8,), max_epochs=1),
        clone=Fit(updates=3, hidden=(8,)), horizon=3, rollouts=10,
    )  # fmt: skip
    monkeypatch.setattr(foretelling, "Effort", lambda: small)
    words = ("forecast", "--dynamics", "hopper-random", "--prior", "hopper-random")
    made = call(*words)
    assert made.exit_code == 0, made.output
    assert "states covered by D1" in made.output
    assert "of D1's own other episodes 95 %" in made.output
    found = json.loads(call(*words, "--json").stdout)
    assert found["target"] == "hopper"
    assert call("forecast", "--dynamics", "nothing", "--prior", "nothing").exit_code == 2


def test_version_is_printed() -> None:
    assert call("--version").output.strip().count(".") == 2


def test_data_goes_out_comes_back_and_is_checked(tmp_path: Path, datasets: None) -> None:
    path = tmp_path / "out.hdf5"
    assert (
        call("data", "export", "hopper-random", "--to", "d4rl", "--out", str(path)).exit_code == 0
    )
    assert call("data", "import", str(path), "--name", "back").exit_code == 0
    one, other = (
        json.loads(call("data", "info", name, "--json").stdout)["content_hash"]
        for name in ("hopper-random", "back")
    )
    assert one == other
    assert "there is d4rl, minari" in refusal(
        "data", "export", "back", "--to", "csv", "--out", str(tmp_path / "x")
    )


def test_d4rl_dir_is_where_names_are_looked_for(tmp_path: Path) -> None:
    sentence = refusal("--d4rl-dir", str(tmp_path), "data", "info", "d4rl:hopper-medium-v2")
    assert f"no hopper_medium-v2.hdf5 in {tmp_path}/" in sentence.replace("\n", "")
    assert "no such folder" in refusal("--d4rl-dir", str(tmp_path / "no"), "data", "list")
    assert str(tmp_path) not in refusal("data", "info", "d4rl:hopper-medium-v2")


def test_only_d4rl_is_downloaded() -> None:
    assert "Only D4RL's files" in refusal("data", "download", "minari:mujoco/hopper/medium-v0")


def test_empty_data_folder_is_said_to_be_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MABE_TRANSFER_DATA", str(tmp_path))
    found = call("data", "list")
    assert found.exit_code == 0
    assert "There is no dataset in" in " ".join(found.output.split())


def test_preset_is_shown_for_one_dataset() -> None:
    found = call("algorithms", "presets", "mopo-v2/hopper-medium", "--json")
    assert found.exit_code == 0, found.output
    assert [row["dataset"] for row in json.loads(found.stdout)] == ["hopper-medium"]
    assert "preset mopo-v2 has no dataset 'hopper-mediun'" in refusal(
        "algorithms", "presets", "mopo-v2/hopper-mediun"
    )


def test_policy_to_collect_with_goes_by_the_domain_that_it_ships_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MABE_TRANSFER_DATA", str(tmp_path))
    words = ("collect", "--env", "hopper", "--transitions", "10", "--policy")
    assert call(*words, "hopper-ice", "--out", "carried").exit_code == 0
    assert "Did you mean 'hopper-ice'" in refusal(*words, "hopper-icy", "--out", "other")
    assert "walker2d" in refusal(*words, "walker2d", "--out", "other")


def test_unfinished_store_of_another_world_is_named_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MABE_TRANSFER_DATA", str(tmp_path))
    words = ("collect", "--quality", "random", "--transitions", "10", "--out", "one", "--env")
    assert call(*words, "walker2d").exit_code == 0
    store = tmp_path / "one.zarr"
    facts = json.loads((store / "zarr.json").read_text())
    facts["attributes"] |= {"complete": False, "progress": {"shard_rows": 1}}
    (store / "zarr.json").write_text(json.dumps(facts))
    store.rename(tmp_path / "one.zarr.partial")
    assert "was begun with domain = 'walker2d', and now it is 'hopper'" in refusal(*words, "hopper")


def test_setting_that_does_not_parse_is_refused_before_anything_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MABE_TRANSFER_DATA", str(tmp_path))
    said = refusal("experiment", "figure6", "--scale", "smoke", "--set", "policy.discount=abc")
    assert "--set policy.discount: expected float" in said
    assert not any(tmp_path.iterdir())


def test_dataset_that_is_absent_is_told_by_the_nearest_name_or_by_its_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MABE_TRANSFER_DATA", str(tmp_path))
    words = ("data", "info", "hoper-random")
    assert "no robot 'hoper'" in refusal(*words)
    made = call("collect", "--env", "hopper", "--quality", "random", "--transitions", "10")
    assert made.exit_code == 0
    assert "Did you mean 'hopper-random'" in refusal(*words)


def test_average_of_a_policy_follows_at_a_share() -> None:
    said = refusal("experiment", "figure6", "--scale", "smoke", "--set", "policy.policy_polyak=5")
    assert "policy.policy_polyak must lie in 0..1, not 5" in said
