"""Label files: Triton serves each line as it is, so what is no clean list of names is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.recipe.label_files import count_problem, label_problem, names_in


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1), min_size=1))
def test_clean_names_are_taken_and_counted_with_or_without_a_last_line_feed(names):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        for end in ("", "\n"):
            file = Path(folder) / "labels.txt"
            file.write_bytes(("\n".join(names) + end).encode())
            assert label_problem("labels.txt", Path(folder), (len(names),)) is None
            assert label_problem("labels.txt", Path(folder), (-1,)) is None
            assert names_in(file) == len(names)
            assert label_problem("labels.txt", Path(folder), (len(names) + 1,)) is not None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xef\xbb\xbfa\nb\n", "labels.txt:1 begins with a byte-order mark"),
        ("a\nb\n".encode("utf-16"), "labels.txt:1 begins with a byte-order mark"),
        (b"a\r\nb\r\n", r"labels.txt:1 ends in a carriage return \(CRLF\)"),
        (b"a\nb\r\n", "labels.txt:2 ends in a carriage return"),
        (b"a\n\nb\n", "labels.txt:2 is blank"),
        (b"a\n \nb\n", "labels.txt:2 is blank"),
        (b"a\nb\n\n", "labels.txt:3 is blank"),
        (b"", "labels.txt:1 is blank"),
        (b"a\ncaf\xe9\n", "labels.txt:2 is not UTF-8 text"),
        (b"a\nb\nc\n", r"labels.txt has 3 names, but the output has 2 values a sample \(its shape is \[2\]\)"),
    ],
)
def test_what_would_be_served_wrong_is_refused_with_the_line(tmp_path, content, said):
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(label_problem("labels.txt", tmp_path, (2,)))


def test_a_file_outside_of_the_recipe_s_folder_is_refused(tmp_path):
    root = tmp_path / "recipe"
    (root / "more").mkdir(parents=True)
    for place in (root / "more" / "labels.txt", tmp_path / "labels.txt"):
        place.write_text("a\nb\n")
    assert label_problem("more/labels.txt", root) is None
    assert label_problem(str(root / "more" / "labels.txt"), root) is None
    for name in ("../labels.txt", "more/../../labels.txt", str(tmp_path / "labels.txt")):
        assert "leads out of the recipe's folder" in str(label_problem(name, root))


def test_an_output_of_several_dimensions_has_a_name_for_each_value():
    assert count_problem("labels.txt", 6, (2, 3)) is None
    assert count_problem("labels.txt", 1, ()) is None
    assert count_problem("labels.txt", 3, (2, 3)) is not None
    assert count_problem("labels.txt", 3, None) is None
