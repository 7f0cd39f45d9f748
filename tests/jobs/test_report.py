"""The `report` job: reports rebuilt from their JSON, merged and compared; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mtl_accum import jobs
from mtl_accum import report as reports
from mtl_accum.report import read
from mtl_accum.report._read import KINDS
from tests.report.example_plan import plan
from tests.report.examples import job, prediction, report


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    (tmp_path / "out").mkdir()
    return tmp_path


def rebuild(folder: Path, path: Any, before: Any = None) -> None:
    jobs.rebuild(path=path, before=before, run=jobs.Run(folder / "out", "", {}))


SCHEMA = Draft202012Validator(json.loads((Path(reports.__file__).parent / "schema.json").read_text()))


def test_the_schema_is_one_and_of_this_version() -> None:
    SCHEMA.check_schema(SCHEMA.schema)
    assert SCHEMA.schema["$defs"]["run"]["properties"]["version"] == {"const": reports.VERSION}
    assert not SCHEMA.is_valid({**report(), "version": reports.VERSION - 1})


def written(folder: Path, name: Any, content: Any, write: Any = reports.write) -> Any:
    (folder / name).mkdir()
    write(content, folder / name)
    return folder / name


@pytest.mark.parametrize("content", [report(), report("cuda"), prediction()], ids=["cpu", "cuda", "prediction"])
def test_a_run_anew(folder: Any, content: Any) -> None:
    place = written(folder, "run", content)
    before = {path.name: path.read_bytes() for path in place.rglob("*.*")}
    for path in place.rglob("*.*"):
        if path.suffix != ".json":
            path.unlink()
    rebuild(folder, str(place))
    after = {path.name: path.read_bytes() for path in place.rglob("*.*")}
    assert before.keys() == after.keys()
    for name in ("report.json", "report.md"):
        assert before[name] == after[name]


def test_a_plan_and_a_sweep_anew(folder: Any) -> None:
    content = {"command": "c", "created": "now", "plan": plan()}
    place = written(folder, "plan", content, reports.write_plan)
    page = (place / "plan.md").read_text()
    (place / "plan.md").unlink()
    rebuild(folder, str(place / "plan.json"))
    assert (place / "plan.md").read_text() == page
    job(folder / "sweep", 0, "edition=split", 100)
    reports.write_sweep(folder / "sweep")
    (folder / "sweep" / "sweep.csv").unlink()
    rebuild(folder, str(folder / "sweep"))
    assert (folder / "sweep" / "sweep.csv").exists()


def test_several_become_one_sweep(folder: Any) -> None:
    run = written(folder, "run", report())
    job(folder / "sweep", 0, "edition=split data.batch_size=9", 100)
    reports.write_sweep(folder / "sweep")
    rebuild(folder, [str(run), str(folder / "sweep")])
    rows = json.loads((folder / "out" / "sweep.json").read_text())["rows"]
    assert [row["overrides"]["edition"] for row in rows] == ["summed", "per_task", "split", "split"]
    assert [row["failure"] for row in rows] == [None, None, "prepare: out of memory", None]


def test_before_and_after(folder: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before = written(folder, "before", report())
    content = report()
    content["editions"][1]["memory"][0]["peak_bytes"] //= 2
    content["editions"][1]["step_seconds"] = [0.3]
    content["editions"][2]["edition"] = "cached"
    after = written(folder, "after", {**content, "command": "python -m mtl_accum +experiment=y epochs=3"})
    rebuild(folder, str(after), before=str(before))
    page = (folder / "out" / "comparison.md").read_text()
    assert "| edition=summed | 400.0 MiB | 400.0 MiB | +0.0 % | 100.0 ms | 100.0 ms | +0.0 % |" in page
    assert "| edition=per_task | 300.0 MiB | 150.0 MiB | -50.0 % | 150.0 ms | 300.0 ms | +100.0 % |" in page
    assert "- only before: edition=split\n- only after: edition=cached\n" in page
    assert "| edition=summed |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"version": 3, "kind": "ru', "a file that is cut off or no JSON"),
        ("[1, 2]", "found JSON without its version and kind"),
        ('{"name": "left-pad"}', "found JSON without its version and kind"),
        ('{"version": 99, "kind": "run"}', "expected version 3, found 99; it was written by another mtl_accum"),
        ('{"version": 3, "kind": "party"}', "kind must be one of run, prediction, sweep, plan, failure; found 'party'"),
        (
            '{"version": 3, "kind": "sweep", "created": "now"}',
            "expected a sweep as schema.json has it, found 'rows' is a required property",
        ),
        (
            '{"version": 3, "kind": "sweep", "created": "now", "rows": [{"job": 3}]}',
            "expected a sweep as schema.json has it, found rows.0: 'overrides' is a required property",
        ),
    ],
)
def test_what_is_no_report(folder: Any, text: str, message: str) -> None:
    (folder / "report.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        rebuild(folder, str(folder))
    assert "\n" not in str(error.value)


def test_what_cannot_be_done(folder: Any) -> None:
    run = written(folder, "run", report())
    planned = written(folder, "plan", {"command": "c", "created": "now", "plan": plan()}, reports.write_plan)
    job(folder, 0, "a=b", reason="it broke")
    for path, before, message in [
        (None, None, "path must be the folder of a run or sweep"),
        (str(folder / "none"), None, "found nothing there"),
        (str(folder / "out"), None, "in this folder, found none"),
        (str(folder / "0"), None, "this job has failed, there is no report: it broke"),
        ([str(run), str(planned)], None, "expected runs or sweeps, found a plan"),
        ([str(run), str(run)], str(run), "expected one path to compare with it, found 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            rebuild(folder, path, before)


def test_every_kind_that_is_written_is_known(folder: Any) -> None:
    for name, content, write in [
        ("run", report(), reports.write),
        ("prediction", prediction(), reports.write),
        ("plan", {"command": "c", "created": "now", "plan": plan()}, reports.write_plan),
    ]:
        found = read(written(folder, name, content, write))[1]
        assert found["kind"] == name
        SCHEMA.validate(found)
    job(folder, 0, "a=b", reason="it broke")
    job(folder, 1, "a=c", 20)
    SCHEMA.validate(reports.write_sweep(folder))
    assert set(KINDS) == {"run", "prediction", "plan", "sweep", "failure"}
