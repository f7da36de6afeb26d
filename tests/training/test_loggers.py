"""Loggers against the real clients: what wandb writes offline and what TensorBoard reads back."""

import json
import logging
import os
import socket
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from kdexp.errors import ConfigError
from kdexp.training.loggers import close_logger, no_logger, tensorboard_logger, wandb_logger
from wandb_files import closed, history, only, read_records, summary_of, wandb_files

CONF = Path(__file__).parents[2] / "conf"
SECRET = "hunter2-do-not-store"
CONFIG = {
    "dataset": {"_target_": "kdexp.systems.toy.Toy", "source": "auto"},
    "storage": {"url": f"postgresql://ada:{SECRET}@db.example/kd", "password": SECRET},
    "logger": {"api_key": SECRET},
    "seed": 42,
}


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """A machine without a W&B key, and a start in an empty folder."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.chdir(tmp_path)


def closed_file(folder: Path) -> Path:
    """The one .wandb file of a run, once it is closed."""
    (path,) = wandb_files(folder)
    closed(path)
    return path


def logged_run(folder: Path, status: str = "done", **settings):
    logger = wandb_logger(run_dir=folder, config=CONFIG, source="synthetic", mode="offline", **settings)
    try:
        for epoch in (1, 2, 3):
            logger.log_metrics({"train/ce": 1 / epoch, "val/score": 0.1 * epoch}, step=epoch)
        logger.finalize(status)
    finally:
        close_logger(logger)
    return closed_file(folder)


def test_an_offline_wandb_run_holds_group_job_name_tags_and_epochs_as_steps(tmp_path):
    path = logged_run(tmp_path / "trial_00007", group="my_study", job_type="trial", tags=["fast"])
    records = list(read_records(path))
    run = only(records, "run")
    assert (run.project, run.run_group, run.job_type) == ("kdexp", "my_study", "trial")
    assert run.display_name == "trial_00007"
    assert sorted(run.tags) == ["SYNTHETIC", "fast"]
    made = history(records)
    assert [(row["epoch"], row["val/score"]) for row in made] == [(1, 0.1), (2, 0.2), (3, pytest.approx(0.3))]
    steps = {record.metric.glob_name: record.metric.step_metric for record in records if record.HasField("metric")}
    assert steps["*"] == "epoch"
    assert only(records, "exit").exit_code == 0


def test_a_planted_secret_is_in_no_byte_that_wandb_writes(tmp_path):
    path = logged_run(tmp_path / "run")
    config = {item.key: json.loads(item.value_json) for item in only(list(read_records(path)), "run").config.update}
    assert config["seed"] == 42
    assert config["logger"] == {"api_key": "***"}
    assert config["storage"] == {"url": "postgresql://***@db.example/kd", "password": "***"}
    assert config["data_source"] == "synthetic"
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert len(files) >= 3
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]


def test_no_host_command_line_or_path_is_in_the_file_that_would_be_sent(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [*sys.argv, "planted-argument"])
    monkeypatch.setattr(socket, "gethostname", lambda: "planted-host")
    path = logged_run(tmp_path / "run")
    records = list(read_records(path))
    assert only(records, "run").host == ""
    kinds = {record.WhichOneof("record_type") for record in records}
    assert not kinds & {"files", "output", "output_raw", "stats", "environment"}
    content = path.read_bytes()
    for private in ("planted-host", "planted-argument", str(tmp_path), sys.executable):
        assert private.encode() not in content, private


def test_two_runs_in_one_process_are_two_files_even_if_the_first_was_never_finalized(tmp_path):
    first = wandb_logger(run_dir=tmp_path / "a", config=CONFIG, source="real", mode="offline")
    first.log_metrics({"val/score": 0.1}, step=1)
    second = logged_run(tmp_path / "b")
    close_logger(first)
    first_file = closed_file(tmp_path / "a")
    assert [row["val/score"] for row in history(read_records(first_file))] == [0.1]
    assert len(history(read_records(second))) == 3
    # It was closed by close_logger, not by finalize: it ended badly.
    assert only(list(read_records(first_file)), "exit").exit_code == 1
    assert only(list(read_records(first_file)), "run").tags == []


@pytest.mark.parametrize(("status", "code"), [("done", 0), ("pruned", 0), ("failed", 1)])
def test_the_exit_record_says_how_the_run_ended(tmp_path, status, code):
    records = list(read_records(logged_run(tmp_path / "run", status=status)))
    assert only(records, "exit").exit_code == code
    assert summary_of(records)["status"] == status


def test_the_summary_keeps_the_best_score_beside_the_last(tmp_path):
    logger = wandb_logger(run_dir=tmp_path / "run", config=CONFIG, source="real", mode="offline")
    for epoch, score in enumerate((0.3, 0.5, 0.4), 1):
        logger.log_metrics({"val/score": score, "val/loss": score}, step=epoch)
    logger.finalize("done")
    summary = summary_of(read_records(closed_file(tmp_path / "run")))
    assert summary["val/score"] == {"max": 0.5, "last": 0.4}
    assert summary["val/loss"] == 0.4


def test_a_run_with_an_id_of_its_own_may_be_gone_on_with(tmp_path):
    run = only(read_records(logged_run(tmp_path / "run", run_id="abc123")), "run")
    assert (run.run_id, run.resume) == ("abc123", True)
    assert not only(read_records(logged_run(tmp_path / "other")), "run").resume


def test_a_closed_logger_refuses_more_epochs_and_an_unknown_status(tmp_path):
    logger = no_logger(run_dir=tmp_path, config={}, source="real")
    with pytest.raises(ValueError, match="status must be one of success, done"):
        logger.finalize("finished")
    with pytest.raises(ValueError, match="needs step="):
        logger.log_metrics({"val/score": 1.0})
    logger.log_metrics({"val/score": 1.0}, step=1)
    logger.finalize("done")
    logger.finalize("done")
    with pytest.raises(RuntimeError, match="is closed"):
        logger.log_metrics({"val/score": 1.0}, step=2)
    close_logger(None)
    assert list(tmp_path.iterdir()) == []


def opened_mode(monkeypatch, tmp_path, mode="auto") -> str:
    """The mode that wandb is asked for, without starting it."""
    import wandb

    asked = {}

    class Stop(Exception):
        pass

    def init(**settings):
        asked.update(settings)
        raise Stop

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(Stop):
        wandb_logger(run_dir=tmp_path / "run", config={}, source="real", mode=mode)
    return asked["mode"]


def test_auto_without_a_key_is_offline_and_says_so(monkeypatch, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert opened_mode(monkeypatch, tmp_path) == "offline"
    assert "works offline: no key in WANDB_API_KEY or netrc" in caplog.text
    assert "wandb sync" in caplog.text


def test_auto_is_online_with_a_key_in_the_environment_or_in_netrc(monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai login user password 0123\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert opened_mode(monkeypatch, tmp_path) == "online"
    # A key for another server does not count.
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    assert opened_mode(monkeypatch, tmp_path) == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    assert opened_mode(monkeypatch, tmp_path) == "online"


def test_wandb_mode_decides_for_auto_only(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert opened_mode(monkeypatch, tmp_path) == "offline"
    assert opened_mode(monkeypatch, tmp_path, mode="online") == "online"
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ConfigError, match="WANDB_MODE=sometimes is not one of"):
        wandb_logger(run_dir=tmp_path, config={}, source="real")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_the_epochs_and_the_redacted_configuration_back(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra kdexp[tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = tensorboard_logger(run_dir=tmp_path / "run", config=CONFIG, source="synthetic")
    for epoch in (1, 2):
        logger.log_metrics({"epoch": epoch, "val/score": 0.1 * epoch}, step=epoch)
    logger.finalize("done")
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    read.Reload()
    assert read.Tags()["scalars"] == ["val/score"]
    scalars = [(event.step, event.value) for event in read.Scalars("val/score")]
    assert scalars == [(1, pytest.approx(0.1)), (2, pytest.approx(0.2))]
    texts = {tag: read.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in read.Tags()["tensors"]}
    assert texts["data_source/text_summary"] == "SYNTHETIC"
    assert texts["status/text_summary"] == "done"
    assert '"password": "***"' in texts["config/text_summary"]
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in (tmp_path / "run").rglob("events*"))


def test_a_missing_tensorboard_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"kdexp\[tensorboard\]"):
        tensorboard_logger(run_dir=tmp_path, config={}, source="real")


OPTIONS = sorted(path.stem for path in (CONF / "logger").glob("*.yaml"))


def test_there_are_three_loggers():
    assert OPTIONS == ["none", "tensorboard", "wandb"]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_logger_is_built_from_its_yaml_and_gets_the_configuration_as_plain_values(option, tmp_path, monkeypatch):
    if option == "tensorboard":
        pytest.importorskip("tensorboard", reason="the extra kdexp[tensorboard] is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with initialize_config_dir(str(CONF / "logger")):
        node = compose(option)
    # `instantiate` has an argument `config` of its own, so the rest is given to the half-built call.
    builder = instantiate(node, _convert_="all", _partial_=True, _execution_whitelist_=[node["_target_"]])
    logger = builder(run_dir=tmp_path / "run", config=CONFIG, source="synthetic")
    logger.log_metrics({"val/score": 0.5}, step=1)
    logger.finalize("done")
    assert logger.closed
    if option == "wandb":
        path = closed_file(tmp_path / "run")
        config = {item.key: json.loads(item.value_json) for item in only(list(read_records(path)), "run").config.update}
        assert config["dataset"] == CONFIG["dataset"]
