import json

import pytest

from mobileclip2.engine.cost import Cost
from mobileclip2.engine.gc import Stored
from mobileclip2.engine.lineage import Lineage, Node
from mobileclip2.engine.plan import Item, Plan
from pipelines.cli import main
from pipelines.show import cells, lineage_as_tree, plan_as_json, plan_as_markdown, plan_as_table, unneeded_as_table


def item(group, part="view-0", why=("seed 1 -> 2",), cost=None):
    return Item("augmentations", part, group, why, cost or Cost(10, 2000, 1.5))


def test_a_row_combines_groups_and_parts_with_one_reason():
    plan = Plan((item("g00"), item("g01"), item("g01", "view-1"), item("g02", why=("new",))), reused=7)
    lines = [" ".join(line.split()) for line in plan_as_table(plan, width=100).splitlines()]
    assert lines[0] == "asset samples bytes time"
    assert lines[1:3] == ["augmentations g00..g01 (2) view-0..view-1 (2) 30 6.0 kB 4 s", "seed 1 -> 2"]
    assert lines[3:5] == ["augmentations g02 view-0 10 2.0 kB 2 s", "new"]
    assert lines[5] == "3 asset-group pairs; 7 slices are reused 40 8.0 kB 6 s" and len(lines) == 6


def test_a_plan_as_markdown_has_totals_and_a_row_for_each_reason():
    plan = Plan((item("g00"), item("g01"), item("g02", why=("a|b -> c",))), reused=7)
    lines = plan_as_markdown(plan).splitlines()
    totals = "3 asset-group pairs; 7 slices are reused; samples 30, bytes 6.0 kB, time 4 s"
    assert lines[2] == f"<details><summary>{totals}</summary>" and lines[-1] == "</details>"
    assert lines[6:8] == [
        "| augmentations | g00..g01 (2) view-0 | 20 | 4.0 kB | 3 s | seed 1 -> 2 |",
        "| augmentations | g02 view-0 | 10 | 2.0 kB | 2 s | a\\|b -> c |",
    ]
    assert "Nothing: all 7 slices are stored." in plan_as_markdown(Plan((), reused=7))


def test_the_sets_of_an_evaluation_appear_once():
    evaluated = Item("evaluation/plain", "shapes", "shapes", ("new",), Cost(1, 1, 1.0))
    assert "evaluation/plain shapes  " in plan_as_table(Plan((evaluated,), 0), width=100)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_plan_table_does_not_break_words(width):
    long = "teacher_embeddings/some_teacher/synthetic_captioner"
    why = ("upstream synthetic_captions/some_captioner", "train.learning_rate 0.001 -> 0.002", "loss.distill 1 -> 0.75")
    plan = Plan((Item(long, "whole", "g00", why, Cost(1_000_000, 12, 4.0)),), reused=7)
    table = plan_as_table(plan, width=width)
    words = {word.strip(";") for reason in why for word in reason.split()} | {long}
    assert words <= {word.strip(";") for word in table.split()}
    if width >= 80:
        assert max(map(len, table.splitlines())) <= width


def test_a_column_without_numbers_is_replaced_by_a_hint():
    unknown = frozenset({"bytes", "seconds"})
    plan = Plan((item("g00", cost=Cost(10, 0, 0.0, unknown)), item("g01", cost=Cost(5, 0, 0.0, unknown))), reused=0)
    table = plan_as_table(plan, width=80)
    head = table.splitlines()[0].split()
    assert head == ["asset", "samples"] and "?" not in table
    told = " ".join(table.split())
    assert "when one group of the asset has been computed" in told and "from 'rates' in the profile" in told
    assert "when raw_shards has counted" not in told


def test_unknown_costs_are_marked():
    known = Cost(10, 2000, 1.5)
    shown = cells(known + Cost(5, 0, 0.0, frozenset({"bytes", "seconds"})))
    assert shown == {"samples": "15", "bytes": "2.0 kB+", "time": "2 s+"}
    assert set(cells(Cost(unknown=frozenset({"samples", "bytes", "seconds"}))).values()) == {"–"}


def test_many_reasons_are_cut_and_brackets_are_shown():
    plan = Plan((item("g00", why=("logit_scales [50, 30] -> [51, 30]", *(f"upstream {n}" for n in range(9)))),), 0)
    table = plan_as_table(plan, width=200)
    assert "logit_scales [50, 30] -> [51, 30]" in table and "and 6 more" in table


def test_an_empty_plan_prints_a_message():
    assert plan_as_table(Plan((), 12), width=80) == "nothing to compute: all 12 slices are stored\n"
    assert json.loads(plan_as_json(Plan((), 12)))["items"] == []
    assert unneeded_as_table([], width=80, deleted=False) == "nothing to delete: every stored output is needed\n"


def test_leftovers_are_summed_by_asset():
    left = [Stored("a/b", "0" * 16, "g00", 3, 1000, True), Stored("a/b", "1" * 16, None, 1, 500, False)]
    table = unneeded_as_table(left, width=120, deleted=True)
    assert "1.5 kB" in table and "1111111111111111 (unfinished)" in table and "deleted" in table


def test_a_lineage_of_many_levels_is_a_tree():
    nodes = {
        str(level): Node(
            asset=f"a{level}", part="whole", group=None, fingerprint="f", code_version="1", path="p", made_from=inputs
        )
        for level, inputs in ((level, {"of": str(level + 1), "file": "h"}) for level in range(2000))
    }
    tree = lineage_as_tree(Lineage(asset="a0", nodes=nodes), width=80)
    assert tree.startswith("a0  f\n├── file  h\n└── a1  f\n    ├── file  h\n    └── a2  f")


def test_plan_from_the_command_line(tiny, capsys):
    assert main(["plan", "--profile", str(tiny)]) == 0
    assert "raw_shards" in capsys.readouterr().out
    assert main(["plan", "--json", "--profile", str(tiny), "augmentations"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert {each["asset"] for each in planned["items"]} == {"raw_shards", "augmentations"}
    assert planned["items"][0]["reasons"] == ["new"]
    assert not (tiny.parent / "store").exists(), "a plan writes nothing"


def test_a_plan_of_an_unknown_asset_is_refused(tiny, capsys):
    assert main(["plan", "--profile", str(tiny), "student/nobody"]) == 1
    assert "there is no asset 'student/nobody'; " in capsys.readouterr().err
    assert main(["plan", "--profile", str(tiny), "augmentation"]) == 1
    assert "there is no asset 'augmentation'; did you mean 'augmentations'?" in capsys.readouterr().err


def test_a_plan_takes_the_last_part_of_a_unique_name(tiny, capsys):
    assert main(["plan", "--json", "--profile", str(tiny), "clean"]) == 0
    assert {each["asset"] for each in json.loads(capsys.readouterr().out)["items"]} == {"caption_corpus/clean"}
    assert main(["plan", "--profile", str(tiny), "pupil"]) == 1
    assert "'pupil' can be student/pupil or evaluation/pupil" in capsys.readouterr().err
