import click
import pytest
from click.testing import CliRunner

from mmdeploy.cli.bench import _Numbers, command


@pytest.mark.parametrize(
    ("text", "whole", "numbers"),
    [
        ("4", True, (4,)),
        ("1,4,8", True, (1, 4, 8)),
        ("1:16:5", True, (1, 6, 11, 16)),
        ("2:4", True, (2, 3, 4)),
        ("0.5", False, (0.5,)),
        ("50:200:50,1000", False, (50, 100, 150, 200, 1000)),
        ("0.1:0.3:0.1", False, (0.1, 0.2, pytest.approx(0.3))),
    ],
)
def test_numbers_are_lists_and_ranges(text, whole, numbers):
    assert _Numbers(whole=whole).convert(text, None, None) == numbers


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "4:1", "1:4:0", "1:2:3:4", "1.5", "1:100000", "nan", "inf", ","])
def test_what_is_no_load_is_refused(text):
    with pytest.raises(click.BadParameter):
        _Numbers(whole=True).convert(text, None, None)


@pytest.mark.parametrize("text", ["nan", "inf", "1e9", "0:5:1"])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(click.BadParameter):
        _Numbers(whole=False).convert(text, None, None)


def test_a_wrong_load_is_told_where_it_was_given():
    told = CliRunner().invoke(command, ["127.0.0.1:1", "--concurrency", "none"])
    assert told.exit_code == 2
    assert "--concurrency" in told.output
