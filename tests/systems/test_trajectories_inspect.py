"""What inspecting trips counts, and the rules that a student has to beat, by hand on a crossing."""

from __future__ import annotations

from pathlib import Path

import pytest
from trajectories_files import TRIP, opened, opened_city, trip, write_crossing

from kdexp.systems.trajectories.grid import GridOptions
from kdexp.systems.trajectories.rules import PLACES


def inspected(tmp_path: Path, **splits) -> dict:
    return opened(write_crossing(tmp_path / "porto", **splits)).inspect()


def test_the_rules_by_hand(tmp_path: Path) -> None:
    """Train leaves 0 twice to 2 and once to 1, and 1 once; it never leaves 5, whose first successor is 1.

    Test, in order of steps: 0>1 on the way to 4 (frequent says 2, nearest 1), 1>4 (only choice), 0>3 (2; 3),
    0>5 on the way to 2 (2; 2), 5>2 (1; 2).
    """
    train = [trip("a", [0, 2]), trip("b", [0, 1, 4]), trip("c", [0, 2])]
    test = [trip("d", [0, 1, 4]), trip("e", [0, 3]), trip("f", [0, 5, 2])]
    rules = inspected(tmp_path, train=train, test=test)["test_accuracy_of_rules"]
    # Decisions are all steps but 1>4; the last steps are 1>4, 0>3 and 5>2.
    assert list(rules["n"].values()) == [5, 4, 2, 2]
    assert list(rules["frequent"].values()) == [1 / 5, 0, 0, 0]
    assert list(rules["nearest"].values()) == [4 / 5, 3 / 4, 1 / 2, 1 / 2]
    assert list(rules["frequent_else_nearest"].values()) == [2 / 5, 1 / 4, 0, 0]
    chance = [(3 / 4 + 1 + 1 / 2) / 5, (3 / 4 + 1 / 2) / 4, 1 / 4, 1 / 4]
    assert list(rules["chance"].values()) == pytest.approx(chance, abs=1e-4)


def test_of_equally_frequent_successors_the_one_first_taken_is_the_rules(tmp_path: Path) -> None:
    train = [trip("a", [0, 2]), trip("b", [0, 1]), trip("c", [0, 3]), trip("d", [0, 1]), trip("e", [0, 2])]
    found = inspected(tmp_path, train=train, test=[trip("f", [0, 2]), trip("g", [0, 1])])
    assert found["test_accuracy_of_rules"]["frequent"]["all"] == 0.5
    swapped = inspected(tmp_path, train=train[::-1], test=[trip("f", [0, 2]), trip("g", [0, 2]), trip("h", [0, 1])])
    assert swapped["test_accuracy_of_rules"]["frequent"]["all"] == round(2 / 3, 4)


def test_the_rules_do_not_depend_on_how_many_candidates_are_kept(tmp_path: Path) -> None:
    found = [opened_city(tmp_path, candidate_top_k=k, lost_label="ignore").inspect() for k in (None, 1)]
    assert found[0]["test_accuracy_of_rules"] == found[1]["test_accuracy_of_rules"]


def test_places_without_steps_have_no_accuracy(tmp_path: Path) -> None:
    rules = inspected(tmp_path, test=[trip("d", [1, 4])])["test_accuracy_of_rules"]
    assert rules["nearest"] == {"all": 1.0, "decisions": None, "inner": None, "inner_decisions": None}
    assert tuple(rules["n"]) == PLACES


def test_beginnings_and_repeats_are_counted_over_all_splits(tmp_path: Path) -> None:
    """0-1 begins 0-1-4; 0-5 begins 0-5-2, in another split; 0-2 is there twice; a trip does not begin itself."""
    train = [trip("a", [0, 1]), trip("b", [0, 1, 4]), trip("c", [0, 2])]
    found = inspected(tmp_path, train=train, val=[trip("d", [0, 5])], test=[trip("e", [0, 5, 2]), trip("f", [0, 2])])
    counts = {name: (of["prefix_trips"], of["repeated_trips"]) for name, of in found["splits"].items()}
    assert counts == {"train": (1, 0), "val": (1, 0), "test": (0, 1)}


def test_the_map_and_what_test_shares_with_train_are_counted(tmp_path: Path) -> None:
    midnight = ["2019-11-30T23:59:50Z", "2019-12-01T00:00:00Z"]
    train = [("a", [0, 1], midnight), trip("b", [3]), trip("c", [0, 2])]
    found = inspected(tmp_path, train=train, test=[trip("a", [0, 1]), trip("e", [0, 1]), trip("f", [0, 5])])
    roads = found["map"]
    assert (roads["roads"], roads["moves"], roads["without_successor"], roads["without_predecessor"]) == (6, 7, 3, 1)
    assert (roads["loop_roads"], roads["bracketed_classes"], roads["zones"]) == (1, 2, 2)
    assert found["roads_by_out_degree"] == {"0": 3, "1": 1, "2": 1, "4": 1}
    assert found["roads_by_class"] == {"(blank)": 1, "primary": 2, "residential": 2, "tertiary": 1}
    assert found["blank_fields"] == {"highway": 1}
    counts = found["splits"]["train"]
    assert (counts["trips"], counts["steps"], counts["decisions"], counts["one_road_rows_skipped"]) == (2, 2, 2, 1)
    assert (counts["over_midnight"], counts["at_weekend"]) == (1, 1)
    shared = found["test_and_train"]
    assert (shared["od_pairs_of_test"], shared["of_these_in_train"], shared["test_trips_with_od_in_train"]) == (2, 1, 2)
    assert shared["roads_seen_in_train"] == 3
    assert shared["share_of_test_roads_unseen_in_train"] == round(1 / 6, 4)
    assert shared["trip_ids_used_twice"] == 1


def test_long_files_are_counted_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = opened_city(tmp_path).inspect()
    monkeypatch.setattr("kdexp.systems.trajectories.trips._TRIPS_AT_ONCE", 7)
    assert opened_city(tmp_path).inspect() == whole
    assert whole["splits"]["train"]["one_road_rows_skipped"] == 1


def test_decisions_between_roads_of_one_cell_are_counted(tmp_path: Path) -> None:
    """In cells as large as the map all candidates share one, so every decision counts."""
    root = write_crossing(tmp_path / "porto", train=[TRIP])
    fine, coarse = (opened(root, grid=GridOptions(size_degrees=size)).inspect() for size in (0.0001, 1.0))
    assert fine["splits"]["train"]["decisions_with_a_shared_cell"] == 0
    assert coarse["splits"]["train"]["decisions_with_a_shared_cell"] == 1
