"""Short and distinct names of the 1000 classes of ImageNet."""

from __future__ import annotations

import pytest

from pipeline.errors import InputError
from recipes.imagenet_labels import read_labels


def write(tmp_path, lines):
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rows(**changed):
    lines = [f"name {index}, other {index}" for index in range(1000)]
    for place, line in changed.items():
        lines[int(place.removeprefix("row"))] = line
    return lines


def test_first_synonym_is_the_name_and_background_is_skipped(tmp_path):
    labels = read_labels(write(tmp_path, ["background", *rows()]))
    assert len(labels) == 1000
    assert labels[0] == "name 0"
    assert labels[999] == "name 999"


def test_name_of_another_class_is_replaced_by_the_next_synonym(tmp_path):
    lines = rows(row5="Cardigan, Cardigan Welsh corgi", row9="cardigan")
    labels = read_labels(write(tmp_path, lines))
    assert labels[5] == "Cardigan Welsh corgi"
    assert labels[9] == "cardigan"


def test_two_cranes_get_distinct_names(tmp_path):
    labels = read_labels(write(tmp_path, rows(row134="crane", row517="crane")))
    assert labels[134] == "crane (bird)"
    assert labels[517] == "crane (machine)"


def test_repeated_names_are_an_error(tmp_path):
    with pytest.raises(InputError, match="'same' repeats"):
        read_labels(write(tmp_path, rows(row1="same", row2="Same")))


@pytest.mark.parametrize("count", [0, 999, 1002])
def test_wrong_number_of_names_is_an_error(tmp_path, count):
    lines = [f"name {index}" for index in range(count)]
    with pytest.raises(InputError, match=f"expected 1000 class names, but it has {count}"):
        read_labels(write(tmp_path, lines))


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt: expected the ImageNet class names"):
        read_labels(tmp_path / "none.txt")


def test_real_list_gives_1000_different_names(shared):
    labels = read_labels(shared / "models" / "imagenet_labels.txt")
    assert len({label.casefold() for label in labels}) == 1000
    assert labels[285] == "Egyptian cat"
    assert labels[504] == "coffee mug"
