"""The words that two texts have in common, by their characters."""

from finf_core.alignment import shared_spans


def marked(first: str, second: str) -> list[tuple[str, str]]:
    spans = shared_spans(first, second)
    return [(first[span[0] : span[1]], second[span[2] : span[3]]) for span in spans]


def test_runs_are_found_whatever_stands_between_the_words() -> None:
    first = "Ann has Twelve red_apples, and nothing else to eat."
    second = "x = 1  # twelve RED apples: and\n   nothing else, 'to' eat!"
    assert marked(first, second) == [
        ("Twelve red_apples, and nothing else to eat", "twelve RED apples: and\n   nothing else, 'to' eat")
    ]


def test_a_word_in_between_makes_two_runs_and_short_runs_are_left_out() -> None:
    first = "a b c d e f g h i j k"
    assert marked(first, "a b c d X f g h i") == [("a b c d", "a b c d"), ("f g h i", "f g h i")]
    assert marked(first, "a b c X e f g X i j k") == []


def test_letters_that_grow_in_lower_case_do_not_move_what_follows() -> None:
    assert marked("İİ one two three four", "one two three four") == [("one two three four", "one two three four")]


def test_texts_without_words_share_nothing() -> None:
    assert shared_spans("", "…") == []
