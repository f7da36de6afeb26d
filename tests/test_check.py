"""Every kind of mistake in a configuration is found before any work, with its full key, and all of them at once."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from contracts.plugins import composed, outside_trusted
from kdexp.check import check_config, locate
from kdexp.config import DataVerbConfig, EvaluateConfig, TrainConfig
from kdexp.errors import ConfigError
from kdexp.trust import TRUST_VARIABLE, execution_whitelist, trusted_packages

DROP = "taken out"
NOT_SET = (
    "student.width: KeyError raised while resolving interpolation: \"Environment variable 'KDEXP_NOT_SET' not found\""
)


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[None]:
    with outside_trusted():
        yield


@pytest.fixture(scope="module")
def medpix() -> DictConfig:
    """The default configuration; copied before it is changed."""
    return composed("dataset=medpix")


def changed(cfg: DictConfig, changes: dict[str, Any]) -> DictConfig:
    """A copy with these keys set, added, or taken out."""
    result = copy.deepcopy(cfg)
    with open_dict(result):
        for key, value in changes.items():
            parent, _, name = key.rpartition(".")
            node = OmegaConf.select(result, parent) if parent else result
            if value is DROP:
                node.pop(name)
            else:
                OmegaConf.update(result, key, value, merge=False, force_add=True)
    return result


def problems(cfg: DictConfig, schema: type = TrainConfig, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_config(cfg, schema, overrides=overrides)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_the_default_configuration_is_sound_and_comes_back_as_plain_values(medpix: DictConfig) -> None:
    plain = check_config(medpix)
    assert plain["trainer"]["max_epochs"] == 10
    assert plain["teacher"]["max_epochs"] == 10  # an interpolation
    assert not OmegaConf.is_config(plain["dataset"]) and isinstance(plain["dataset"]["fetch"]["urls"], list)


MISTAKES = [
    # unknown keys, at the root, in a section, in what builds an object, and inside that
    ({"sede": 3}, "sede: unknown key, so it would have no effect; did you mean 'seed'?"),
    ({"data.batchsize": 3}, "data.batchsize: unknown key, so it would have no effect; did you mean 'batch_size'?"),
    ({"interval.levels": 3}, "interval.levels: unknown key, so it would have no effect; did you mean 'level'?"),
    (
        {"student.widht": 3},
        "student.widht: unknown key in kdexp.systems.multimodal.models.MultimodalClassifier, so it would have no "
        "effect; did you mean 'width'?",
    ),
    ({"dataset.text.lenght": 9}, "dataset.text.lenght: unknown key in kdexp.systems.multimodal.text.TextOptions, "),
    ({"teacher.model.vision.chanels": 9}, "teacher.model.vision.chanels: unknown key in "),
    ({"distill.weights.klx": 9}, "distill.weights.klx weighs nothing: choose among ('ce', 'kl')"),
    ({"distill.gamma": 0.3}, "distill.gamma: unknown key in kdexp.distill.objective.ce_lambda_kl, "),
    ({"optimizer.momentum": 0.9}, "optimizer.momentum: unknown key in torch.optim.AdamW, "),
    # types
    ({"seed": "many"}, "seed: must be an integer, got 'many'"),
    ({"seed": 3.5}, "seed: must be an integer, got 3.5"),
    ({"seed": True}, "seed: must be an integer, got True"),
    ({"seed": None}, "seed: must be an integer, got None"),
    ({"data.batch_size": "32"}, "data.batch_size: must be an integer, got '32'"),
    ({"figures": 1}, "figures: must be a boolean, got 1"),
    ({"paths.output_root": 3}, "paths.output_root: must be a string, got 3"),
    ({"trainer.devices": 1.5}, "trainer.devices: must be an integer or must be 'auto' or must be a list, got 1.5"),
    ({"student.width": [1]}, "student.width: must be an integer, got [1]"),
    ({"dataset.text.mask_modality_words": "yes"}, "dataset.text.mask_modality_words: must be a boolean, got 'yes'"),
    ({"data": 3}, "data: expected a section with keys, got 3"),
    ({"teacher": None}, "teacher: expected a section with keys, got None"),
    ({"dataset": "medpix"}, "dataset: names nothing to build; it needs a _target_, got 'medpix'"),
    ({"student": {"width": 3}}, "student: names nothing to build; it needs a _target_, got {'width': 3}"),
    # choices
    ({"teacher.cache": "disk"}, "teacher.cache: must be 'auto', 'ram', 'memmap' or 'off', got 'disk'"),
    ({"dataset.source": "fake"}, "dataset.source: must be 'auto', 'real' or 'synthetic', got 'fake'"),
    ({"dataset.generator.preset": "huge"}, "dataset.generator.preset: must be 'small' or 'default', got 'huge'"),
    # ranges
    ({"seed": -1}, "seed: must be greater than or equal to 0, got -1"),
    ({"data.batch_size": 0}, "data.batch_size: must be greater than or equal to 1, got 0"),
    ({"trainer.gradient_clip_val": 0.0}, "trainer.gradient_clip_val: must be greater than 0, got 0.0"),
    ({"trainer.limit_train_batches": 1.5}, "trainer.limit_train_batches: "),
    ({"interval.level": 1.0}, "interval.level: must be less than 1, got 1.0"),
    ({"interval.n_resamples": 50}, "interval.n_resamples: must be greater than or equal to 100, got 50"),
    ({"paths.data_root": ""}, "paths.data_root: string should have at least 1 character, got ''"),
    ({"student.dropout": 1.0}, "student.dropout: must be less than 1, got 1.0"),
    ({"student.vision.stages": 0}, "student.vision.stages: must be greater than or equal to 1, got 0"),
    ({"dataset.generator.noise": -0.1}, "dataset.generator.noise: must be greater than or equal to 0, got -0.1"),
    # numbers that are none
    ({"trainer.gradient_clip_val": math.nan}, "trainer.gradient_clip_val: must be a finite number, got nan"),
    ({"optimizer.weight_decay": math.inf}, "optimizer.weight_decay: must be a finite number, got inf"),
    ({"optimizer.lr": math.nan}, "optimizer.lr: start must be a finite number, got nan"),
    ({"optimizer.lr.start": math.inf}, "optimizer.lr.start must be a finite number, got inf"),
    ({"distill.temperature": math.inf}, "distill.temperature: must be a finite number, got inf"),
    ({"distill.weights.kl.start": math.nan}, "distill.weights.kl.start must be a finite number, got nan"),
    # missing
    ({"seed": DROP}, "seed: missing; every training configuration needs it"),
    ({"data.batch_size": DROP}, "data.batch_size: missing; every data configuration needs it"),
    ({"optimizer": DROP}, "optimizer: missing; every training configuration needs it"),
    ({"dataset.root": DROP}, "dataset.root: missing; kdexp.systems.multimodal.medpix.MedPix needs it"),
    ({"distill.temperature": DROP}, "distill.temperature: missing; kdexp.distill.objective.ce_lambda_kl needs it"),
    ({"distill.weights.kl": DROP}, "distill.weights.kl is missing"),
    ({"optimizer.lr": DROP}, "optimizer.lr: missing"),
    ({"teacher.optimizer.lr": DROP}, "teacher.optimizer.lr: missing"),
    ({"seed": "???"}, "seed: has no value; give one, seed=..."),
    ({"dataset.root": "???"}, "dataset.root: has no value; give one, dataset.root=..."),
    ({"distill.temperature": "???"}, "distill.temperature: has no value; give one, distill.temperature=..."),
    ({"student.width": "???"}, "student.width: has no value; give one, student.width=..."),
    # interpolations
    ({"seed": "${no.such}"}, "seed: Interpolation key 'no.such' not found"),
    ({"student.width": "${oc.env:KDEXP_NOT_SET}"}, NOT_SET),
    ({"teacher.max_epochs": "${trainer.epochs}"}, "teacher.max_epochs: Interpolation key 'trainer.epochs' not found"),
    # what Python adds
    ({"optimizer.params": []}, "optimizer.params: is set by kdexp itself; take it out"),
    ({"logger.run_dir": "x"}, "logger.run_dir: is set by kdexp itself; take it out"),
    # schedules, over their whole course
    ({"optimizer.lr": -1e-3}, "optimizer.lr must stay at or above 0 for the whole of training, but it reaches -0.001"),
    ({"teacher.optimizer.lr": -1.0}, "teacher.optimizer.lr must stay at or above 0 "),
    ({"optimizer.lr": "fast"}, "optimizer.lr: start must be a finite number, got 'fast'"),
    ({"optimizer.lr": {"name": "linear", "start": 0.1}}, "optimizer.lr.end is missing"),
    ({"optimizer.lr": {"name": "linear", "start": 0.1, "end": -1}}, "optimizer.lr must stay at or above 0 "),
    ({"optimizer.lr": {"start": 0.1, "stop": 1}}, "optimizer.lr.stop is no setting of a schedule"),
    ({"optimizer.lr": {"end": 1}}, "optimizer.lr.start is missing"),
    ({"teacher.optimizer.lr": {"start": 0.1, "per": "day"}}, "teacher.optimizer.lr.per must be epoch or step"),
    ({"distill.temperature": 0}, "distill.temperature must stay above 0 for the whole of training, but it reaches 0"),
    ({"distill.temperature": {"name": "linear", "start": 4, "end": 0}}, "distill.temperature must stay above 0 "),
    ({"distill.temperature.end": 3}, "distill.temperature.end has no effect on a constant"),
    ({"distill.temperature.name": "linaer"}, "distill.temperature.name must be one of constant, linear, "),
    ({"distill.weights.kl": -0.5}, "distill.weights.kl must stay at or above 0 "),
    ({"distill.aux": {"energy": -1}}, "distill.aux.energy must stay at or above 0 "),
    ({"distill.aux": {"kl": 1}}, "distill.aux.kl has the name of another part; rename it"),
]


@pytest.mark.parametrize(("changes", "sentence"), MISTAKES, ids=[str(change) for change, _ in MISTAKES])
def test_a_mistake_is_one_sentence_with_its_full_key(medpix: DictConfig, changes: dict, sentence: str) -> None:
    (found,) = problems(changed(medpix, changes))
    assert found.startswith(sentence)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "eval",
        "",
        "subprocess.run",
        "kdexp.cli.os.system",
        "kdexp.cli.main",
        "kdexp.check.importlib.import_module",
        "kdexp.records.os.replace",
        "kdexp.provenance.subprocess.run",
        "kdexp.systemsx.anything",
        "torch.load",
        "torch.hub.load",
    ],
)
def test_a_name_outside_the_trusted_packages_is_refused(medpix: DictConfig, name: str) -> None:
    (found,) = problems(changed(medpix, {"dataset": {"_target_": name}}))
    assert found.startswith(f"dataset._target_: {name!r} is ")
    assert f"list it in the environment variable {TRUST_VARIABLE}" in found


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("kdexp.training.fit.Path", "pathlib.Path"),
        ("kdexp.distill.objective.torch", ".torch"),
        ("kdexp.systems.sources.shutil", ".shutil"),
        ("kdexp.systems.sources.contextmanager", "contextlib.contextmanager"),
        ("kdexp.training.teacher.write_json", "kdexp.records.write_json"),
        ("torch.nn.functional.has_torch_function", "torch._C.has_torch_function"),
    ],
)
def test_what_a_trusted_module_merely_imported_is_refused(medpix: DictConfig, name: str, home: str) -> None:
    (found,) = problems(changed(medpix, {"student._target_": name}))
    assert found.startswith(f"student._target_: {name!r} is really {home!r}, outside the packages")


@pytest.mark.parametrize(
    "name",
    [
        "kdexp.training.callbacks._link_or_copy",
        "kdexp.training.cache._write",
        "kdexp.systems.sources._generated",
        "kdexp.distill.objective.Objective._distilled",
    ],
)
def test_a_private_name_is_refused(medpix: DictConfig, name: str) -> None:
    (found,) = problems(changed(medpix, {"dataset": {"_target_": name}}))
    assert found.startswith("dataset._target_: ") and name in found


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("kdexp.distill.objective.ce_lamda_kl", "has no 'ce_lamda_kl'; did you mean 'ce_lambda_kl'?"),
        ("kdexp.systems.multimodal.nosuch.Model", "cannot import 'kdexp.systems.multimodal.nosuch.Model'"),
        ("kdexp.training.fit.pickle.loads", "cannot import 'kdexp.training.fit.pickle.loads'"),
        ("kdexp.training.fit.__loader__.load_module", "cannot import"),
        ("kdexp.systems", "'kdexp.systems'"),
        ("rings", "'rings'"),
    ],
)
def test_a_name_that_leads_nowhere_is_explained(medpix: DictConfig, name: str, sentence: str) -> None:
    (found,) = problems(changed(medpix, {"student._target_": name}))
    assert found.startswith("student._target_: ") and sentence in found


@pytest.mark.parametrize(
    "key", ["student.vision", "student.text", "teacher.model.fusion", "dataset.text", "teacher.optimizer"]
)
def test_a_nested_node_is_held_to_the_same_whitelist(medpix: DictConfig, key: str) -> None:
    found = problems(changed(medpix, {key: {"_target_": "os.system", "command": "true"}}))
    assert [sentence for sentence in found if sentence.startswith(f"{key}._target_: 'os.system' is outside")]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset.fetch.urls", [{"_target_": "os.system", "command": "true"}]),
        ("distill.weights.kl", {"_target_": "os.system", "command": "true"}),
        ("distill.aux", {"energy": {"_target_": "os.system", "command": "true"}}),
        ("optimizer.lr", {"_target_": "os.system", "command": "true"}),
        ("trainer.devices", [{"_target_": "os.system"}]),
    ],
)
def test_a_node_hidden_in_a_value_is_refused(medpix: DictConfig, key: str, value: Any) -> None:
    assert any(found.startswith(key) for found in problems(changed(medpix, {key: value})))


def test_a_package_of_ones_own_is_trusted_by_name(medpix: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    own = changed(medpix, {"student": {"_target_": "rings.models.RingNet", "width": 4}})
    assert check_config(own)["student"]["width"] == 4
    monkeypatch.delenv(TRUST_VARIABLE)
    (found,) = problems(own)
    assert found.startswith("student._target_: 'rings.models.RingNet' is outside the packages that a config may name")


def test_the_trusted_packages_are_those_of_the_variable_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRUST_VARIABLE)
    built_in = trusted_packages()
    assert built_in == ("kdexp.systems", "kdexp.distill", "kdexp.training", "torch.optim", "torch.nn")
    monkeypatch.setenv(TRUST_VARIABLE, " one, two.three ,,")
    assert trusted_packages() == (*built_in, "one", "two.three")
    patterns = execution_whitelist()
    assert {"one.*", "two.three.*", "kdexp.systems.*"} <= set(patterns)
    assert not {"*", ".*", "kdexp.*", "torch.*"} & set(patterns)


def test_trust_ends_at_a_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, "rin")
    with pytest.raises(ConfigError, match=r"k: 'rings\.models\.RingNet' is outside"):
        locate("rings.models.RingNet", "k")


def test_all_mistakes_come_at_once(medpix: DictConfig) -> None:
    changes = {
        "sede": 1,
        "seed": "x",
        "data.batch_size": 0,
        "student.width": 0,
        "student.vision.chanels": 3,
        "teacher.model._target_": "os.system",
        "teacher.optimizer.lr": -1,
        "optimizer.lr": "${no.such}",
        "distill.temperature": -2,
        "distill.weights.kl": -1,
        "dataset.source": "fake",
    }
    found = problems(changed(medpix, changes))
    assert len(found) == len(set(found)) == len(changes)
    for key in changes:
        assert any(sentence.startswith((f"{key}:", f"{key} ", f"{key}.")) for sentence in found), key


@pytest.mark.parametrize(
    ("changes", "overrides", "sentence"),
    [
        ({}, ("schedule@distill.alpha=linear",), "schedule@distill.alpha: has no effect, kdexp.distill.objective."),
        ({}, ("+schedule@distill.beta=linear",), "schedule@distill.beta: has no effect"),
        (
            {"distill.weights.kl": 0.5},
            ("schedule@distill.weights.kl=linear", "distill.weights.kl=0.5"),
            "schedule@distill.weights.kl: a number for distill.weights.kl takes the place of the schedule; write "
            "distill.weights.kl.start for it",
        ),
        (
            {"optimizer.lr": 3},
            ("schedule@optimizer.lr=cosine",),
            "schedule@optimizer.lr: a number for optimizer.lr takes",
        ),
        ("none", ("teacher.seed=3",), "teacher.seed: has no effect, distill=none uses no teacher"),
        ("none", ("teacher=rings",), "teacher: has no effect, distill=none uses no teacher"),
        ("none", ("student/fusion@teacher.model.fusion=gated",), "student/fusion@teacher.model.fusion: has no effect"),
        ("none", ("schedule@distill.temperature=linear",), "schedule@distill.temperature: has no effect"),
        ("none+no_kd", ("with_no_kd=true",), "with_no_kd: has no effect, distill=none is the no-KD run"),
        (
            {"trainer.gradient_clip_algorithm": "norm"},
            (),
            "trainer.gradient_clip_algorithm: has no effect without trainer.gradient_clip_val",
        ),
        (
            {"teacher.cache": "off"},
            ("teacher.cache=off", "teacher.cache_dtype=float16"),
            "teacher.cache_dtype: has no effect with teacher.cache=off",
        ),
        ({"teacher.checkpoint": "t.pt"}, ("teacher.max_epochs=3",), "teacher.max_epochs: has no effect, teacher.check"),
        (
            {"teacher.checkpoint": "t.pt"},
            ("teacher.ema=0.9",),
            "teacher.ema: has no effect, teacher.checkpoint is used",
        ),
        (
            {"teacher.checkpoint": "t.pt"},
            ("teacher.seed=3",),
            "teacher.seed: has no effect, teacher.checkpoint is used",
        ),
        (
            {"teacher.checkpoint": "t.pt"},
            ("teacher.optimizer.lr=1",),
            "teacher.optimizer.lr: has no effect, teacher.checkpoint is used instead of training",
        ),
        (
            {"dataset.source": "real"},
            ("dataset.generator.noise=0.3",),
            "dataset.generator.noise: has no effect with dataset.source=real",
        ),
    ],
    ids=str,
)
def test_a_setting_without_effect_is_a_mistake(
    medpix: DictConfig, changes: Any, overrides: tuple[str, ...], sentence: str
) -> None:
    none = {"distill": {"_target_": "kdexp.distill.objective.none"}}
    if isinstance(changes, str):
        changes = none | ({"with_no_kd": True} if changes == "none+no_kd" else {})
    (found,) = problems(changed(medpix, changes), overrides=overrides)
    assert found.startswith(sentence)
    assert found.count(":") >= 1


@pytest.mark.parametrize(
    ("changes", "overrides"),
    [
        ({}, ("teacher.seed=3", "teacher.cache_dtype=float16", "dataset.generator.noise=0.3")),
        ({}, ("schedule@distill.weights.kl=constant", "seed=3", "~logger", "with_no_kd=true")),
        ({"trainer.gradient_clip_algorithm": "norm", "trainer.gradient_clip_val": 1.0}, ()),
        ({"teacher.checkpoint": "t.pt"}, ("teacher.checkpoint=t.pt", "teacher.cache=ram", "teacher.model.width=8")),
        ({"trainer.strategy": "ddp"}, ("trainer.strategy=ddp",)),
        ({"distill.alpha": None, "distill.gamma": None}, ()),
        ({"optimizer.lr": 3}, ()),
        ({"distill.temperature": 3}, ("schedule@distill.temperature=constant", "distill.temperature=3")),
        ({"trainer.devices": "auto"}, ()),
        ({"trainer.devices": [0, 1]}, ()),
        ({"trainer.limit_train_batches": 3}, ()),
        ({"trainer.limit_train_batches": 0.5}, ()),
        ({"paths.output_root": "${oc.env:HOME}/x"}, ()),
    ],
    ids=str,
)
def test_what_has_an_effect_passes(medpix: DictConfig, changes: dict, overrides: tuple[str, ...]) -> None:
    check_config(changed(medpix, changes), overrides=overrides)


@pytest.mark.parametrize(
    ("schema", "verb", "changes", "sentence"),
    [
        (EvaluateConfig, "evaluate", {}, "run: has no value; give one, run=..."),
        (EvaluateConfig, "evaluate", {"run": ""}, "run: string should have at least 1 character, got ''"),
        (
            EvaluateConfig,
            "evaluate",
            {"run": "r", "split": "dev"},
            "split: must be 'train', 'val' or 'test', got 'dev'",
        ),
        (EvaluateConfig, "evaluate", {"run": "r", "interval.level": 0.2}, "interval.level: must be greater than 0.5"),
        (DataVerbConfig, "data", {"action": "show"}, "action: must be 'inspect', 'generate' or 'fetch', got 'show'"),
        (DataVerbConfig, "data", {"root": 3}, "root: must be a string, got 3"),
        (DataVerbConfig, "data", {"dataset.image_size": 4}, "dataset.image_size: must be greater than or equal to 8"),
        (DataVerbConfig, "data", {"dataset._target_": "os.system"}, "dataset._target_: 'os.system' is outside"),
    ],
)
def test_other_verbs_are_held_to_their_own_schema(schema: type, verb: str, changes: dict, sentence: str) -> None:
    (found,) = problems(changed(composed(verb=verb), changes), schema)
    assert found.startswith(sentence)


# What Lightning and torch would refuse only after the data were read and the teacher trained.
LATE = [
    {"trainer.precision": "33-false"},
    {"trainer.precision": "bf16-true"},  # whole models in half precision: batches for validation and test are float32
    {"trainer.accelerator": "abacus"},
    {"trainer.strategy": "chess"},
    {"optimizer.weight_decay": -1.0},
    {"optimizer.betas": [math.nan, 0.9]},
    {"optimizer.betas": [2.0, 0.9]},
]


@pytest.mark.parametrize("changes", LATE, ids=str)
def test_what_a_library_would_refuse_late_is_refused_early(medpix: DictConfig, changes: dict) -> None:
    (found,) = problems(changed(medpix, changes))
    assert found.startswith(next(iter(changes)))


def test_checking_changes_nothing(medpix: DictConfig) -> None:
    before = OmegaConf.to_container(medpix, resolve=False)
    check_config(medpix)
    assert OmegaConf.to_container(medpix, resolve=False) == before


def test_the_message_names_come_from_the_schema(medpix: DictConfig) -> None:
    """An unknown key with nothing near lists what there is."""
    (found,) = problems(changed(medpix, {"data.zzz": 1}))
    assert found == "data.zzz: unknown key, so it would have no effect; there are: seed, batch_size, eval_batch_size"
    assert TRUST_VARIABLE == "KDEXP_TRUSTED_PACKAGES"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("dataset", "kdexp.systems.multimodal.medpix_release.fetch"),
        ("student", "kdexp.training.teacher.keep_weights"),
        ("logger", "kdexp.training.loggers.close_logger"),
        ("distill", "kdexp.distill.schedules.make_schedule"),
    ],
)
def test_a_function_that_builds_nothing_is_not_called(medpix: DictConfig, key: str, name: str) -> None:
    """A trusted package holds functions that write files; a config may name only what makes the object it needs."""
    (found,) = problems(changed(medpix, {key: {"_target_": name}}))
    assert found.startswith(f"{key}._target_: ") and "cannot stand here" in found
