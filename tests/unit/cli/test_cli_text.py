"""What reaches a terminal is text, whatever a name or a server said."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.cli.text import printable, table


@given(st.text())
def test_no_control_character_is_left_and_other_text_is_as_it_was(text):
    shown = printable(text)
    assert not any(unicodedata.category(one) == "Cc" and one not in "\n\t" for one in shown)
    if text.isprintable():
        assert shown == text


def test_escapes_of_terminals_are_shown(capsys):
    assert printable("\x1b[2J\x07\r\u202eab\n") == "\\x1b[2J\\x07\\r\\u202eab\n"
    assert "\x1b" not in table(("a",), [("\x1b]0;title\x07",)])
    assert run(commands, ["serve", "\x1b[31mred"]) == 2
    assert capsys.readouterr().err.startswith("error: \\x1b[31mred is not there;")
