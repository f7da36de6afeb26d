"""Which feature of the student goes with which of the teacher, and the trained maps that bring them to one width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from kdexp.contracts import FeatureForm, StudentOutput, TeacherSignal, Traits
from kdexp.errors import ConfigError

Side = Literal["teacher", "student"]
_FORMS: dict[FeatureForm, tuple[int, str]] = {
    "vectors": (2, "vectors (batch, width)"),
    "maps": (4, "maps (batch, channels, height, width)"),
    "numbers": (1, "numbers (batch,)"),
    "weights": (2, "weights (batch, slots)"),
}


class Pair(NamedTuple):
    """Names of two features."""

    student: str
    teacher: str


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """What one loss compares, under the config key that said so."""

    pairs: tuple[Pair, ...]
    key: str
    traits: Traits
    project: Side = "teacher"


class FeaturePairs(nn.Module):
    """The features of one loss. Where it is `projected`, each pair has a Linear with bias of its own, on the side
    `project`; `connect` makes them, for their widths are the models'."""

    def __init__(self, pairing: Pairing) -> None:
        super().__init__()
        self.pairing = pairing
        self.maps = nn.ModuleList()

    def connect(self, output: StudentOutput, signal: TeacherSignal) -> None:
        """Makes the maps for models that gave this, drawn from torch's generator. ConfigError for a feature that a
        model does not give, or not in the form that the loss reads, and for two widths where it needs one."""
        problems = list(dict.fromkeys(self._problems(output.features, signal.features)))
        if problems:
            raise ConfigError(problems)
        if self.pairing.traits.projected:
            widths = [(output.features[p.student].shape[1], signal.features[p.teacher].shape[1]) for p in self._pairs]
            is_teachers = self.pairing.project == "teacher"
            self.maps = nn.ModuleList(nn.Linear(t, s) if is_teachers else nn.Linear(s, t) for s, t in widths)

    def forward(self, output: StudentOutput, signal: TeacherSignal) -> tuple[StudentOutput, TeacherSignal]:
        """The two with these features only, both of a pair under one name, and the teacher's detached."""
        names = [" and ".join(pair) for pair in self._pairs]
        students = [output.features[pair.student] for pair in self._pairs]
        teachers = [signal.features[pair.teacher].detach() for pair in self._pairs]
        if self.pairing.traits.projected:
            if len(self.maps) != len(names):
                raise ValueError(f"{self.pairing.key}: the projections are not made yet; call Objective.connect first")
            if self.pairing.project == "teacher":
                teachers = _mapped(self.maps, teachers)
            else:
                students = _mapped(self.maps, students)
        return (
            replace(output, features=dict(zip(names, students, strict=True))),
            replace(signal, features=dict(zip(names, teachers, strict=True))),
        )

    @property
    def _pairs(self) -> tuple[Pair, ...]:
        return self.pairing.pairs

    def _problems(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Iterator[str]:
        n_axes, form = _FORMS[self.pairing.traits.features or "vectors"]
        for pair in self._pairs:
            for who, name, given in (("student", pair.student, student), ("teacher", pair.teacher, teacher)):
                if name not in given:
                    there = ", ".join(sorted(given)) or "none"
                    yield f"{self.pairing.key}: the {who} gives no {name!r}; it gives {there}"
                elif given[name].ndim != n_axes:
                    shape = tuple(given[name].shape)
                    yield f"{self.pairing.key}: must name {form}, but the {who}'s {name!r} is {shape}"
            widths = [
                given[name].shape[1:] for name, given in zip(pair, (student, teacher), strict=True) if name in given
            ]
            if self.pairing.traits.same_width and len(set(widths)) == 2:
                yield (
                    f"{self.pairing.key}: {pair.student} and {pair.teacher} must be of one width, but the student's is "
                    f"{tuple(widths[0])}, the teacher's {tuple(widths[1])}; give both models the same, or use a loss "
                    "that projects (feature_mse, crd)"
                )


def _mapped(maps: nn.ModuleList, features: Sequence[Tensor]) -> list[Tensor]:
    """In float32, also under autocast."""
    with torch.autocast(features[0].device.type, enabled=False):
        return [made(feature.float()) for made, feature in zip(maps, features, strict=True)]


def read_pairs(setting: Any, key: str) -> tuple[Pair, ...]:
    """The pairs that a config lists, `[[img_proj, img_raw], ...]`. Raises ConfigError where it lists something else."""
    rows = setting if isinstance(setting, (list, tuple)) else []
    for row in rows:
        if not isinstance(row, (list, tuple)) or len(row) != 2 or not all(isinstance(name, str) for name in row):
            raise ConfigError(f"{key}: must list pairs [student's feature, teacher's feature], got {row!r}")
    if not rows:
        raise ConfigError(f"{key}: must list at least one pair [student's feature, teacher's feature], got {setting!r}")
    pairs = tuple(Pair(*row) for row in rows)
    twice = sorted({" and ".join(pair) for pair in pairs if pairs.count(pair) > 1})
    if twice:
        raise ConfigError(f"{key}: lists {', '.join(twice)} twice")
    return pairs
