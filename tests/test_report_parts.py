"""The parts of the report that are plain functions: the strip, links to rows, what to do next."""

import re
import shlex
from typing import Any

import pytest
from report_example import example_report, with_controls

from finf_core.report.histogram_svg import Histogram
from finf_core.report.next_steps import next_steps
from finf_core.report.outcomes import count_outcomes
from finf_core.report.ratio_strip import central_range, ratio_strip, strip_null
from finf_core.report.row_links import common_folder, row_command, shard_href

HISTOGRAM = Histogram([-0.2, -0.1, 0.0, 0.1, 0.2], [0, 5000, 5000, 1], 0, 0)


def places(svg: str, kind: str) -> list[int]:
    """Where the strokes of a kind stand, of 1,500."""
    [path] = re.findall(rf'<path class="{kind}" d="([^"]*)"', svg) or [""]
    return [int(place) for place in re.findall(r"M(\d+) ", path)]


def test_strokes_stand_in_proportion_to_their_ratios_and_at_the_ends_beyond_them() -> None:
    svg = ratio_strip([-9.0, 0.0, 0.4, 0.5, 1.0, 9.0], threshold=0.5)
    assert places(svg, "under") == [0, 250, 650]
    assert places(svg, "over") == [750, 1250, 1500]


def test_without_a_threshold_no_stroke_is_over_it() -> None:
    assert places(ratio_strip([0.9], threshold=None), "over") == []


def test_the_null_shows_the_controls_and_the_heap_and_names_only_what_is_there() -> None:
    with_both = strip_null(HISTOGRAM, [0.05, 0.2], 0.5)
    assert places(with_both, "control") == [300, 450]
    assert "0.50, threshold" in with_both
    bare = strip_null(HISTOGRAM._replace(counts=[0, 0, 0, 0]), [], None)
    assert "band" not in bare
    assert "control" not in bare
    assert "threshold" not in bare


def test_the_heap_leaves_out_a_thousandth_of_the_pairs() -> None:
    assert central_range(HISTOGRAM) == (-0.1, 0.1)
    assert central_range(HISTOGRAM._replace(counts=[0, 500, 500, 1])) == (-0.1, 0.2)
    assert central_range(HISTOGRAM._replace(counts=[0] * 4)) is None
    assert central_range(HISTOGRAM._replace(below=100, above=100)) == (-0.2, 0.2)


@pytest.mark.parametrize(
    ("shard", "href"),
    [
        ("https://host/a b.parquet?x=1&y=%20", "https://host/a%20b.parquet?x=1&y=%20"),
        ("file:///data/0.parquet", "file:///data/0.parquet"),
        ("/data/#1 ü.parquet", "file:///data/%231%20%C3%BC.parquet"),
        ("s3://bucket/0.parquet", None),
        ("relative/0.parquet", None),
        ("javascript:alert(1)", None),
        ("data:text/html,x", None),
        (' https://host/"onclick=', None),
        ('/"><script>', "file:///%22%3E%3Cscript%3E"),
        ("/\ud800", "file:///%ED%A0%80"),
    ],
)
def test_only_what_a_browser_can_follow_becomes_a_link(shard: str, href: str | None) -> None:
    assert shard_href(shard) == href


@pytest.mark.parametrize("shard", ["s3://bucket/0.parquet", "/my data/0.parquet", "x; rm -rf ~", "$(reboot)'\"`id`\n"])
def test_a_shell_reads_the_command_as_it_was_meant(shard: str) -> None:
    assert shlex.split(" ".join(row_command(shard, 12))) == ["finf", "row", shard, "12"]


def test_the_common_folder_ends_at_a_slash() -> None:
    assert common_folder(["s3://b/corpus/part-1", "s3://b/corpus/part-2"]) == "s3://b/corpus/"
    assert common_folder(["s3://b/corpus/x"]) == "s3://b/corpus/"
    assert common_folder(["web", "web-2"]) == ""


def titles(report: dict[str, Any]) -> list[str]:
    return [step.title for step in next_steps(report)]


def test_leaks_are_read_counted_out_and_removed_and_the_next_run_is_compared() -> None:
    report = with_controls(example_report())
    steps = next_steps(report)
    assert [step.title.split()[0] for step in steps] == ["Read", "Correct", "Clean", "Train"]
    assert "the 30 queries" in steps[1].text.lower()
    assert [line for step in steps for line in step.commands] == [
        "finf purify RUN",
        "finf purify RUN --out FOLDER",
        "finf diff RUN NEW_RUN",
    ]


def test_a_score_needs_no_correction_for_what_was_not_learned() -> None:
    report = example_report()
    report["summary"]["outcomes"] |= {"copied_learned": 0, "rephrased_learned": 0}
    assert "Correct the score." not in titles(report)
    assert "Clean the corpus." in titles(report)


def test_without_leaks_nothing_is_removed_and_the_run_is_kept_for_comparison() -> None:
    steps = next_steps(with_controls(example_report(num_leaked=0)))
    assert [line for step in steps for line in step.commands] == ["finf diff RUN NEW_RUN"]


def test_what_the_run_could_not_see_is_said() -> None:
    report = example_report()
    assert "Add controls." in titles(report)
    assert "Add controls." not in titles(with_controls(example_report()))
    for query in report["queries"]:
        query["max_shared"] = None
    report["summary"]["num_skipped_rows"] = 1
    assert titles(report)[-2:] == ["Compare the words too.", "Look at the skipped rows."]
    assert "1 row was not scored" in next_steps(report)[-1].text


def test_without_controls_a_copy_is_a_copy_and_nothing_is_said_of_learning() -> None:
    assert count_outcomes(["copied", "neither", "copied"], judged=False) == {"copied": 2, "neither": 1}
    counts = count_outcomes(["copied_learned", "neither"], judged=True)
    assert list(counts) == ["copied_learned", "rephrased_learned", "copied_not_learned", "neither"]
    assert list(counts.values()) == [1, 0, 0, 1]
    report = example_report()
    report["summary"]["outcomes"] = {"copied": 3, "neither": 1}
    assert "the 3 queries" in next_steps(report)[1].text.lower()
