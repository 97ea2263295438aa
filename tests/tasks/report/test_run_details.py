"""What the report says of a run."""

from __future__ import annotations

from hemaflow.tasks.report.run_details import RUN_DETAILS, RUN_LINE, RunDetails, with_run

HOSTILE = '<script>alert("x")</script>'


def test_a_page_names_its_run_and_escapes_what_came_from_outside() -> None:
    run = RunDetails(
        run="20260131-094500-123-3f2a",
        started="2026-01-31T10:45:00+01:00",
        recipe="laptop",
        data=f"{HOSTILE}.zip",
        hemaflow="0.1.0 0123abcd",
        command=f"hemaflow run --data {HOSTILE} --recipe laptop",
        keys={"train": "a1" * 32},
        configs={"train": {"batch_size": 64, "layers": [{"name": HOSTILE}]}},
    )
    page = f"<main>{RUN_LINE}<p>results</p>{RUN_DETAILS}</main>".encode()
    text = with_run(page, run).decode()
    line, _, details = text.partition("<p>results</p>")
    for told in (run.run, "2026-01-31 09:45 UTC", "recipe laptop on", "hemaflow 0.1.0 0123abcd"):
        assert told in line
    for told in ("hemaflow run --data", "--recipe laptop", run.keys["train"], "2 settings", "batch_size"):
        assert told in details
    assert "<script" not in text
    assert text.count("alert(") == 3
    assert "<!--" not in text
