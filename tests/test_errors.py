"""Messages of errors."""

from rxrl.errors import LONGEST, DataError, some_of


def test_a_long_message_keeps_its_file_and_its_advice():
    text = str(DataError(f"rows.jsonl, row 3: unknown key {'a' * 5000!r}: mend the row."))
    assert len(text) <= LONGEST
    assert text.startswith("rows.jsonl, row 3: unknown key 'aaa")
    assert text.endswith("aaa': mend the row.")


def test_of_many_names_the_first_ones_are_given():
    assert some_of(["a"]) == "a"
    assert some_of(list("abcde")) == "a, b, c, d, e"
    assert some_of(list("abcdefgh")) == "a, b, c, d, e and 3 more"
