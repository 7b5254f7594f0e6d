"""The lists that the pages study: English and Finnish captions, and COCO's."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import coco_list
import pytest

from emoe.prompts import read_prompts

ROOT = Path(__file__).parents[1]


def test_english_and_finnish_are_pairs():
    prompts = read_prompts(ROOT / "docs" / "english-finnish.csv")
    by_group = {group: [p for p in prompts if p.group == group] for group in ("English", "Finnish")}
    assert [len(group) for group in by_group.values()] == [40, 40]
    english, finnish = by_group.values()
    assert [p.text for p in english] == [p.reference_text for p in finnish]
    assert len({p.text for p in prompts}) == 80


def test_coco(tmp_path, capsys):
    told = {
        "images": [{"id": 9, "file_name": "COCO_9.jpg"}, {"id": 4, "file_name": "COCO_4.jpg"}, {"id": 5}],
        "annotations": [
            {"image_id": 4, "id": 30, "caption": "A dog. "},
            {"image_id": 9, "id": 21, "caption": "A cat\non a mat,  asleep."},
            {"image_id": 9, "id": 20, "caption": 'A "cat".'},
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(told))
    listed = [str(tmp_path / "captions.json"), str(tmp_path / "list.csv"), "--photos", str(tmp_path)]
    with pytest.raises(SystemExit):
        coco_list.main(listed)
    assert "2 photographs are not there" in capsys.readouterr().err
    for number in (4, 9):
        (tmp_path / f"COCO_{number}.jpg").touch()
    coco_list.main(listed)
    prompts = read_prompts(tmp_path / "list.csv")
    assert [(p.id, p.text, p.image) for p in prompts] == [
        ("9", 'A "cat".', str(tmp_path / "COCO_9.jpg")),
        ("4", "A dog.", str(tmp_path / "COCO_4.jpg")),
    ]
    coco_list.main([str(tmp_path / "captions.json"), str(tmp_path / "plain.csv")])
    assert next(csv.reader((tmp_path / "plain.csv").open())) == ["id", "prompt"]
    (tmp_path / "captions.json").write_text("{}")
    with pytest.raises(SystemExit):
        coco_list.main([str(tmp_path / "captions.json"), str(tmp_path / "other.csv")])
    assert "is not COCO's captions" in capsys.readouterr().err
