import json

from mobileclip2.engine.cost import Cost
from mobileclip2.engine.gc import Stored
from mobileclip2.engine.plan import Item, Plan
from pipelines.cli import main
from pipelines.show import cells, plan_as_json, plan_as_table, unneeded_as_table


def item(group, part="view-0", why=("seed 1 -> 2",), cost=None):
    return Item("augmentations", part, group, why, cost or Cost(10, 2000, 1.5))


def test_a_row_gathers_groups_and_parts_of_one_reason():
    plan = Plan((item("g00"), item("g01"), item("g01", "view-1"), item("g02", why=("new",))), reused=7)
    lines = plan_as_table(plan, width=100).splitlines()
    assert " ".join(lines[1].split()) == "augmentations g00..g01 (2) view-0..view-1 (2) seed 1 -> 2 30 6.0 kB 4 s"
    assert " ".join(lines[2].split()) == "augmentations g02 view-0 new 10 2.0 kB 2 s"
    assert "3 asset-group pairs" in lines[3] and "7 parts are reused" in lines[3]


def test_what_is_not_known_is_marked():
    known = Cost(10, 2000, 1.5)
    assert cells(known + Cost(5, 0, 0.0, frozenset({"bytes", "seconds"}))) == ("15", "2.0 kB+", "2 s+")
    assert cells(Cost(unknown=frozenset({"samples", "bytes", "seconds"}))) == ("?", "?", "?")


def test_many_reasons_are_cut_and_brackets_are_shown():
    plan = Plan((item("g00", why=("logit_scales [50, 30] -> [51, 30]", *(f"upstream {n}" for n in range(9)))),), 0)
    table = plan_as_table(plan, width=200)
    assert "logit_scales [50, 30] -> [51, 30]" in table and "and 6 more" in table


def test_nothing_to_do():
    assert plan_as_table(Plan((), 12), width=80) == "nothing to compute: all 12 parts are there\n"
    assert json.loads(plan_as_json(Plan((), 12)))["items"] == []
    assert unneeded_as_table([], width=80, deleted=False) == "nothing to delete: every stored output is needed\n"


def test_leftovers_are_summed_by_asset():
    left = [Stored("a/b", "0" * 16, "g00", 3, 1000, True), Stored("a/b", "1" * 16, None, 1, 500, False)]
    table = unneeded_as_table(left, width=120, deleted=True)
    assert "1.5 kB" in table and "1111111111111111 (unfinished)" in table and "deleted" in table


def test_plan_from_the_command_line(tiny, capsys):
    assert main(["plan", "--profile", str(tiny)]) == 0
    assert "raw_shards" in capsys.readouterr().out
    assert main(["plan", "--json", "--profile", str(tiny), "augmentations"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert {each["asset"] for each in planned["items"]} == {"raw_shards", "augmentations"}
    assert planned["items"][0]["reasons"] == ["new"]
    assert not (tiny.parent / "store").exists(), "a plan writes nothing"


def test_a_plan_of_what_does_not_exist(tiny, capsys):
    assert main(["plan", "--profile", str(tiny), "student/nobody"]) == 1
    assert "there is no asset 'student/nobody'; the profile has raw_shards" in capsys.readouterr().err
