"""Each benchmark writes its own section of the page of results, and no other."""

from benchmarks.pages import kept_sections, replace_section

PAGE = "# Results\n\n## Digits\n\ntext\n"


def test_a_section_is_replaced_where_it_stands_and_nothing_else_changes() -> None:
    first = replace_section(PAGE, "## Contamination\n\n### F1\n\nold\n")
    assert first == "# Results\n\n## Digits\n\ntext\n\n## Contamination\n\n### F1\n\nold\n"
    followed = first + "\n## Last\n\nend\n"
    assert replace_section(followed, "## Contamination\n\nnew\n") == followed.replace("### F1\n\nold", "new")
    assert replace_section(followed, "## Last\n\nend\n") == followed


def test_sections_that_somebody_else_makes_are_kept() -> None:
    page = replace_section(replace_section(PAGE, "## Contamination\n\nc\n"), "## Images\n\ni\n")
    assert kept_sections(page, PAGE) == "## Contamination\n\nc\n\n## Images\n\ni\n"
    assert kept_sections(PAGE, PAGE) == ""
