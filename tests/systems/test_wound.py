from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from wound_helpers import SEED, change_rows, csv_file, make_wound, read_rows

from kdexp.contracts import SPLITS, Dataset, Split
from kdexp.errors import ConfigError
from kdexp.systems.multimodal.pairs import InputOptions
from kdexp.systems.multimodal.text import TextOptions
from kdexp.systems.multimodal.wound import NO_DESCRIPTION, TYPES, Wound
from kdexp.systems.multimodal.wound_files import SEVERITIES, Columns, WoundRecord, draw_split, read_file
from kdexp.systems.multimodal.wound_synthetic import ABSENT_FROM_VAL, GeneratorOptions
from kdexp.training.metrics import split_metrics

WORDS = {"train": "train", "val": "dev", "test": "test"}


def labels(dataset: Wound, split: str) -> dict[str, list[str]]:
    """The labels of a split in words, by the data set's own map."""
    held = dataset.split(split)  # type: ignore[arg-type]
    targets = held.fetch(torch.arange(len(held))).targets
    return {task.name: [task.classes[label] for label in targets[task.name]] for task in dataset.tasks}


def test_wound_keeps_the_dataset_contract(small_wound: Wound) -> None:
    assert isinstance(small_wound, Dataset)
    assert all(isinstance(small_wound.split(name), Split) for name in SPLITS)
    assert {task.name: task.classes for task in small_wound.tasks} == {"type": TYPES, "severity": SEVERITIES}
    assert list(TYPES) == sorted(TYPES) and len(TYPES) == 10
    assert small_wound.score == ("type/f1", "severity/f1")


def test_using_it_before_setup_is_an_error(wound_root: Path) -> None:
    with pytest.raises(RuntimeError, match="setup"):
        make_wound(wound_root).split("train")


def test_the_constructor_reads_nothing(tmp_path: Path) -> None:
    make_wound(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", SPLITS)
def test_labels_and_clusters_are_those_of_the_files(small_wound: Wound, wound_root: Path, split) -> None:
    rows = read_rows(wound_root, WORDS[split])
    assert labels(small_wound, split) == {name: [row[name] for row in rows] for name in ("type", "severity")}
    # No patient is known, so a row is a cluster of its own.
    assert small_wound.split(split).clusters.tolist() == [row["img_path"] for row in rows]


def test_a_type_that_val_lacks_moves_no_index(small_wound: Wound) -> None:
    absent = small_wound.tasks[0].classes.index(ABSENT_FROM_VAL)
    seen = {
        split: set(small_wound.split(split).fetch(torch.arange(len(small_wound.split(split)))).targets["type"].tolist())
        for split in SPLITS
    }
    assert seen["train"] == seen["test"] == set(range(10))
    assert seen["val"] == set(range(10)) - {absent} and absent not in (0, 9)


def test_the_map_is_made_of_trains_own_types(copied_wound: Path) -> None:
    """A collection with other types, where one of them is renamed so that the order changes."""

    def rename(rows):
        for row in rows:
            row["type"] = {"Venous": "Arterial", "Abrasion": "Cut"}.get(row["type"], row["type"])

    for word in WORDS.values():
        change_rows(copied_wound, word, rename)
    dataset = make_wound(copied_wound)
    dataset.setup(0)
    assert dataset.tasks[0].classes == ("Arterial", *TYPES[1:9])
    assert dataset.model_arguments()["tasks"] == dataset.tasks
    for split in SPLITS:
        assert labels(dataset, split)["type"] == [row["type"] for row in read_rows(copied_wound, WORDS[split])]


def test_macro_f1_is_over_the_types_that_occur(small_wound: Wound) -> None:
    """Val lacks a type. It counts only where it is predicted."""
    split = small_wound.split("val")
    targets = split.fetch(torch.arange(len(split))).targets
    logits = {
        task.name: torch.nn.functional.one_hot(targets[task.name], len(task.classes)) for task in small_wound.tasks
    }
    logits = {name: one_hot.float() for name, one_hot in logits.items()}
    perfect = split_metrics(small_wound.tasks, small_wound.score, logits, targets)
    assert perfect["type/f1"] == perfect["score"] == 1.0
    # One row of a type with n rows is called by the absent type: F1 of the two are 2(n-1)/(2n-1) and 0, of ten types.
    absent = small_wound.tasks[0].classes.index(ABSENT_FROM_VAL)
    n = int((targets["type"] == targets["type"][0]).sum())
    logits["type"][0] = torch.nn.functional.one_hot(torch.tensor(absent), 10)
    wrong = split_metrics(small_wound.tasks, small_wound.score, logits, targets)
    assert wrong["type/f1"] == pytest.approx((8 + 2 * (n - 1) / (2 * n - 1)) / 10)


def test_a_batch_has_the_promised_shapes_in_colour_and_grey(wound_root: Path, small_wound: Wound) -> None:
    batch = small_wound.split("train").fetch(torch.tensor([3, 0, 3]))
    assert batch.teacher is batch.student
    assert batch.student["image"].shape == (3, 1, 32, 32) and batch.student["image"].dtype == torch.uint8
    teacher = InputOptions(image_size=48, colour=True, text=TextOptions(length=80))
    dataset = make_wound(wound_root, teacher_inputs=teacher)
    dataset.setup(SEED)
    batch = dataset.split("train").fetch(torch.tensor([3, 0]))
    assert batch.student["image"].shape == (2, 1, 32, 32) and batch.teacher["image"].shape == (2, 3, 48, 48)
    assert batch.teacher["tokens"].shape == (2, 80)
    assert (dataset.model_arguments()["image_size"], dataset.teacher_arguments()["image_size"]) == (32, 48)


def test_the_text_is_the_description_or_says_that_there_is_none(copied_wound: Path) -> None:
    nulls = ["", "  ", "NaN", "null", "N/A"]

    def change(rows):
        for row, text in zip(rows, [*nulls, "  two,\nlines – and “more”  "], strict=False):
            row["description"] = text

    change_rows(copied_wound, "train", change)
    dataset = make_wound(copied_wound)
    dataset.setup(0)
    found = dataset.split("train").fetch(torch.arange(6)).student["tokens"]
    expected = TextOptions().encode([NO_DESCRIPTION] * len(nulls) + ["two, lines – and “more”"]).long()
    assert torch.equal(found, expected)


def test_nothing_that_names_a_label_reaches_a_model(copied_wound: Path) -> None:
    """File names and both labels are changed; the model must see the same."""
    first = make_wound(copied_wound)
    first.setup(0)
    index = torch.arange(len(first.split("train")))
    before = first.split("train").fetch(index)

    def rename(rows):
        for number, row in enumerate(rows):
            row["type"] = TYPES[(TYPES.index(row["type"]) + 1) % 10]
            row["severity"] = SEVERITIES[(SEVERITIES.index(row["severity"]) + 1) % 3]
            name = f"{row['type']}_{row['severity']}_{number}.png"
            (copied_wound / "images" / row["img_path"]).rename(copied_wound / "images" / name)
            row["img_path"] = name

    change_rows(copied_wound, "train", rename)
    second = make_wound(copied_wound)
    second.setup(0)
    after = second.split("train").fetch(index)
    assert set(after.student) == {"image", "tokens", "mask"}
    assert all(torch.equal(before.student[name], after.student[name]) for name in after.student)
    assert not torch.equal(before.targets["type"], after.targets["type"])
    assert first.fingerprint != second.fingerprint


def test_columns_may_have_other_names(copied_wound: Path, small_wound: Wound) -> None:
    """The names of the project's own documents."""
    names = {"img_path": "file_path", "type": "kind", "severity": "grade", "description": "text"}
    for word in WORDS.values():
        text = csv_file(copied_wound, word).read_text(encoding="utf-8")
        head, _, rest = text.partition("\n")
        csv_file(copied_wound, word).write_text(",".join(names[one] for one in head.split(",")) + "\n" + rest)
    dataset = make_wound(
        copied_wound,
        filepath_column="file_path",
        type_column="kind",
        severity_column="grade",
        description_column="text",
    )
    dataset.setup(0)
    for split in SPLITS:
        assert labels(dataset, split) == labels(small_wound, split)
    # The stand-in is written with the same names.
    dataset.generate(copied_wound.parent / "made", 0)
    assert list(read_rows(copied_wound.parent / "made")[0]) == list(names.values())


def test_columns_may_stand_in_another_order_beside_others(copied_wound: Path, small_wound: Wound) -> None:
    for word in WORDS.values():
        rows = read_rows(copied_wound, word)
        with csv_file(copied_wound, word).open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.writer(stream)  # with \r\n, and a byte order mark, as a spreadsheet writes it
            writer.writerow(["", "description", "severity", "img_path", "type"])
            writer.writerows(
                [n, row["description"], row["severity"], row["img_path"], row["type"]] for n, row in enumerate(rows)
            )
    dataset = make_wound(copied_wound)
    dataset.setup(0)
    for split in SPLITS:
        held, index = dataset.split(split), torch.arange(len(dataset.split(split)))
        assert labels(dataset, split) == labels(small_wound, split)
        assert torch.equal(held.fetch(index).student["tokens"], small_wound.split(split).fetch(index).student["tokens"])


def records(counts: dict[str, int]) -> list[WoundRecord]:
    names = [name for name, n in counts.items() for _ in range(n)]
    return [
        WoundRecord(file=Path("m.csv"), line=k + 2, image=f"{k}.png", type=name, severity="Mild", description="")
        for k, name in enumerate(names)
    ]


SHAPE = {"Abrasion": 80, "Bruises": 133, "Burn": 87, "Cut": 33, "Diabetic": 307, "Laceration": 73, "Normal": 53} | {
    "Pressure": 333, "Surgical": 220, "Venous": 246,
}  # fmt: skip


def test_a_drawn_split_has_the_published_sizes_and_each_types_share() -> None:
    assert sum(SHAPE.values()) == 1565
    split = draw_split(records(SHAPE), 42)
    assert {name: len(rows) for name, rows in split.items()} == {"train": 1095, "val": 235, "test": 235}
    for name, n in SHAPE.items():
        counts = {word: sum(record.type == name for record in rows) for word, rows in split.items()}
        assert sum(counts.values()) == n
        assert abs(counts["train"] - 0.7 * n) <= 1
        assert abs(counts["val"] - 0.15 * n) <= 1.5 and abs(counts["test"] - 0.15 * n) <= 1.5
    images = [record.image for rows in split.values() for record in rows]
    assert len(set(images)) == len(images) == 1565
    assert all([record.line for record in rows] == sorted(record.line for record in rows) for rows in split.values())


def test_the_seed_alone_decides_the_drawn_split() -> None:
    rows = records(SHAPE)
    assert draw_split(rows, 1) == draw_split(rows, 1)
    first, other = (draw_split(rows, seed) for seed in (1, 2))
    # About 15 % of 235 would be shared by chance.
    shared = {record.image for record in first["val"]} & {record.image for record in other["val"]}
    assert len(shared) < 70


@pytest.mark.parametrize("counts", [{"A": 1, "B": 1, "C": 20}, {"A": 2, "B": 3, "C": 3, "D": 2}])
def test_a_drawn_split_leaves_every_type_in_train(counts: dict[str, int]) -> None:
    for seed in range(20):
        split = draw_split(records(counts), seed)
        assert {record.type for record in split["train"]} == set(counts)
        assert sum(len(rows) for rows in split.values()) == sum(counts.values())


def test_without_the_three_files_the_one_is_split_in_memory(undivided_wound: Path) -> None:
    before = sorted(undivided_wound.rglob("*"))
    datasets = [make_wound(undivided_wound) for _ in range(3)]
    for dataset, seed in zip(datasets, (1, 1, 2), strict=True):
        dataset.setup(seed)
    one, same, other = datasets
    # Nothing is written beside the person's files.
    assert sorted(undivided_wound.rglob("*")) == before
    assert [one.split(name).clusters.tolist() for name in SPLITS] == [
        same.split(name).clusters.tolist() for name in SPLITS
    ]
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.split("val").clusters.tolist() != other.split("val").clusters.tolist()
    everything = read_rows(undivided_wound)
    assert sum(len(one.split(name)) for name in SPLITS) == len(everything)
    home = {row["img_path"]: row for row in everything}
    for name in SPLITS:
        assert labels(one, name)["type"] == [home[image]["type"] for image in one.split(name).clusters]
    assert "drawn by data.seed" in one.inspect()["split_from"]


def test_files_of_a_split_win_over_a_draw_and_the_seed_has_no_say(copied_wound: Path, small_wound: Wound) -> None:
    dataset = make_wound(copied_wound)
    dataset.setup(SEED + 1)
    assert dataset.fingerprint == small_wound.fingerprint
    # metadata.csv is not needed beside them.
    csv_file(copied_wound).unlink()
    again = make_wound(copied_wound)
    again.setup(SEED)
    assert again.fingerprint == small_wound.fingerprint


def test_words_that_tell_ct_from_mr_are_not_masked_here(wound_root: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.text\.mask_modality_words: .* leave it false here"):
        make_wound(wound_root, text=TextOptions(mask_modality_words=True))
    with pytest.raises(ConfigError, match=r"dataset\.teacher_inputs\.text\.mask_modality_words"):
        make_wound(wound_root, teacher_inputs=InputOptions(text=TextOptions(mask_modality_words=True)))


def test_there_is_nothing_to_fetch(run_main, tmp_path: Path) -> None:
    done = run_main(tmp_path, "data", "action=fetch", "dataset=wound")
    assert done.code == 2 and "wound has nothing to fetch" in done.text


def test_inspect_counts_what_was_planted(copied_wound: Path) -> None:
    texts = [
        "",
        "A diabetic foot ulcer, healing.",
        "It is a burn, red.",
        "Severe swelling around a injury.",
        "A wound that is",
    ]

    def plant(rows):
        for row, text in zip(rows, texts, strict=False):
            row |= {"type": "Diabetic", "severity": "Severe", "description": text}
        for row in rows[len(texts) :]:
            row["description"] = "Nothing of note."

    change_rows(copied_wound, "dev", plant)
    shutil.copyfile(copied_wound / "images" / "cut_1.png", copied_wound / "images" / "nobody.png")
    dataset = make_wound(copied_wound)
    dataset.setup(0)
    found = dataset.inspect()
    rows = read_rows(copied_wound, "dev")
    assert found["descriptions"]["val"]["null"] == 1 and found["descriptions"]["val"]["distinct"] == len(texts)
    assert found["dirt"]["val"] == {
        "naming_their_type": 1,
        "naming_only_another_type": 1,
        "stating_their_severity": 1,
        "with_a_hole_after_a": 1,
        "stopping_mid_sentence": 1,
        "file_names_beginning_with_type": sum(
            row["img_path"].startswith(row["type"].lower().removesuffix("s")) for row in rows
        ),
        "equal_image_files": 0,
    }
    assert found["image_files_without_row"] == 1
    severities = Counter(row["severity"] for row in rows if row["type"] == "Diabetic")
    assert found["types"]["Diabetic"]["val"] == "/".join(str(severities[name]) for name in SEVERITIES)
    assert f"val has no {ABSENT_FROM_VAL}" in found["warnings"]
    assert any("every image of the type Normal is Mild" in sentence for sentence in found["warnings"])
    assert "no patient key" in found["warnings"][0]


@pytest.mark.parametrize("seed", range(3))
def test_the_dirt_of_the_real_data_is_planted(tmp_path: Path, seed: int) -> None:
    root = tmp_path / "wound"
    dataset = make_wound(root)
    dataset.generate(root, seed)
    dataset.setup(0)
    found, everything = dataset.inspect(), read_rows(root)
    assert everything == [row for word in WORDS.values() for row in read_rows(root, word)]
    assert {row["severity"] for row in everything if row["type"] == "Normal"} == {"Mild"}
    assert {row["type"] for row in read_rows(root, "dev")} == set(TYPES) - {ABSENT_FROM_VAL}
    assert any("–" in row["description"] and "," in row["description"] for row in everything)
    for split in SPLITS:
        assert found["descriptions"][split]["null"] == 1
        assert found["dirt"][split]["naming_only_another_type"] >= 1
        assert found["dirt"][split]["stopping_mid_sentence"] >= 1
        assert found["dirt"][split]["with_a_hole_after_a"] >= 1
        assert found["dirt"][split]["stating_their_severity"] >= 1
    assert sum(found["dirt"][split]["naming_their_type"] for split in SPLITS) >= 3
    # Normal rows share a handful of sentences.
    assert len({row["description"] for row in everything if row["type"] == "Normal"}) <= 5


def test_the_presets_are_about_140_and_600_images(tmp_path: Path) -> None:
    for preset, least, most in (("small", 120, 160), ("default", 560, 640)):
        root = tmp_path / preset
        make_wound(root, generator=GeneratorOptions(preset=preset)).generate(root, 0)
        assert least <= len(list((root / "images").iterdir())) == len(read_rows(root)) <= most
        assert json.loads((root / "synthetic.json").read_text())["settings"]["preset"] == preset


def test_type_and_severity_are_visible_in_the_image(tmp_path: Path) -> None:
    """The nearest mean image of train finds both more often than the commonest label would."""
    root = tmp_path / "wound"
    dataset = make_wound(root, generator=GeneratorOptions(), colour=True)
    dataset.generate(root, 0)
    dataset.setup(0)
    train, test = (dataset.split(name).fetch(torch.arange(len(dataset.split(name)))) for name in ("train", "test"))
    pixels = [torch.nn.functional.avg_pool2d(each.student["image"].float(), 4).flatten(1) for each in (train, test)]
    centred = [each - each.mean(1, keepdim=True) for each in pixels]
    for task in ("type", "severity"):
        names = train.targets[task].unique()
        means = torch.stack([centred[0][train.targets[task] == name].mean(0) for name in names])
        guess = names[torch.cdist(centred[1], means).argmin(1)]
        right = (guess == test.targets[task]).float().mean()
        commonest = (test.targets[task] == train.targets[task].mode().values).float().mean()
        assert right > commonest + 0.05


def test_a_quoted_field_over_several_lines_does_not_shift_the_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text(
        'img_path,type,severity,description\na.png,Burn,Mild,"one\ntwo, and ""three"""\n\nb.png, Cut ,Severe,—\n'
    )
    first, second = read_file(path, Columns())
    assert (first.line, first.description) == (2, 'one\ntwo, and "three"')
    assert (second.line, second.type, second.description) == (5, "Cut", "—")
