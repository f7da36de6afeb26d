from __future__ import annotations

import subprocess
import sys
import zlib

import pytest
import torch

from kdexp.systems.multimodal.text import MODALITY_WORDS, PADDING, START, TextOptions, token_of, words_of


def test_words_are_runs_of_letters_and_digits_in_lower_case() -> None:
    assert words_of("Axial T2-weighted image, 1.6 x 1.8cm: naïve_mass") == [
        *("axial", "t2", "weighted", "image", "1", "6", "x", "1", "8cm", "naïve", "mass"),
    ]


def test_a_token_is_the_folded_checksum_of_the_word() -> None:
    assert token_of("lung", 8192) == 2 + zlib.crc32(b"lung") % 8190


def test_tokens_are_the_same_in_another_process() -> None:
    """Python's own hash of text is not."""
    code = "from kdexp.systems.multimodal.text import *; print(TextOptions().encode(['CT of the chest']).tolist())"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{TextOptions().encode(['CT of the chest']).tolist()}\n"}


def test_encoding_starts_truncates_and_pads() -> None:
    tokens = TextOptions(vocabulary_size=50, length=4).encode(["one two three four", "one", ""])
    one, two, three = (token_of(word, 50) for word in ("one", "two", "three"))
    assert tokens.tolist() == [[START, one, two, three], [START, one, PADDING, PADDING], [START] + [PADDING] * 3]


@pytest.mark.parametrize("size", [3, 10, 8192])
def test_tokens_stay_within_the_vocabulary_and_off_the_reserved_numbers(size: int) -> None:
    tokens = torch.tensor([token_of(word, size) for word in MODALITY_WORDS])
    assert tokens.min() >= 2
    assert tokens.max() < size


@pytest.mark.parametrize(
    "caption",
    [
        "Axial CT of the chest shows a mass",
        "Axial MRI of the chest, T2 weighted FLAIR, shows a hyperintense mass",
        "Axial computed tomography of the chest shows a HYPODENSE mass",
        "Axial T1WI of the chest with Gadolinium: low-signal mass shows",
    ],
)
def test_masking_takes_out_the_words_that_give_the_modality_away(caption: str) -> None:
    left = words_of(caption, mask_modality_words=True)
    assert not MODALITY_WORDS & set(left)
    assert {"axial", "of", "the", "chest", "shows", "mass"} <= set(left)


def test_masking_leaves_no_gap_that_would_tell() -> None:
    options = TextOptions(mask_modality_words=True)
    plain = options.encode(["axial image of the chest"])
    assert torch.equal(options.encode(["axial CT image of the chest"]), plain)
    assert torch.equal(options.encode(["axial T2 weighted MR image of the chest"]), plain)
    # Without masking they differ.
    assert not torch.equal(TextOptions().encode(["axial CT image of the chest"]), plain)
