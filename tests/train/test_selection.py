"""Which checkpoint counts, and what it is chosen by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.models.load import load_student
from stages.train import selection
from stages.train.selection import choose, held_out_ids, pseudo_label_miou
from tests.train.helpers import MemoryReader, run


@given(st.sets(st.text("abc/0123", min_size=1), min_size=2, max_size=30), st.floats(0.01, 0.5))
def test_held_out_is_a_share_in_whatever_order(ids: set[str], share: float) -> None:
    chosen = held_out_ids(sorted(ids), share)
    assert set(chosen) <= ids
    assert len(chosen) == max(1, int(share * len(ids)))
    assert set(held_out_ids(sorted(ids, reverse=True), share)) == set(chosen)


def test_something_must_be_left() -> None:
    with pytest.raises(UserError, match="leaves none to train on"):
        held_out_ids(["a"], 0.1)


def test_a_run_chooses_by_agreement_on_panoramas_that_it_did_not_see(tmp_path: Path) -> None:
    checkpoint = run(tmp_path, 10, select="pseudo_label_miou", held_out=0.25)
    report = json.loads((tmp_path / "selection.json").read_text())
    trained_on = json.loads((tmp_path / "train_images.json").read_text())
    assert sorted(trained_on + report["held_out"]) == sorted(MemoryReader().ids)
    assert len(report["held_out"]) == 1
    assert set(report["scores"]) == {f"iter_{step}.pth" for step in (2, 4, 6, 8, 10)}
    assert report["scores"][checkpoint.name] == max(report["scores"].values())
    assert report["chosen"] == checkpoint.name
    # the score is the mean IoU on the confident pixels of that panorama
    reader, student = MemoryReader(), load_student(checkpoint, "cpu")
    image_id = report["held_out"][0]
    label, predicted = reader.label(image_id), student(reader.image(image_id))
    counted = (label != 255) & (reader.fused(image_id).weight >= 128)
    ious = [
        ((label == c) & (predicted == c))[counted].sum() / ((label == c) | (predicted == c))[counted].sum()
        for c in range(4)
        if ((label == c) | (predicted == c))[counted].any()
    ]
    assert pseudo_label_miou(checkpoint, reader, [image_id], "cpu") == pytest.approx(100 * np.mean(ious))


def test_of_equals_the_later_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"iter_{k}.pth" for k in (1, 2, 3)]
    monkeypatch.setattr(selection, "pseudo_label_miou", lambda path, *_: {1: 5.0, 2: 7.0, 3: 7.0}[int(path.stem[-1])])
    assert choose(paths, MemoryReader(), ()) == paths[2]
