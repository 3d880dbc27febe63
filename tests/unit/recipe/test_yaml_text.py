"""What mmdeploy writes as YAML it reads as the same value, though other readers take other words for numbers."""

from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from mmdeploy.recipe.yaml_tree import text_of, tree_from_text

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=12)
NUMBER_LIKE = st.from_regex(r"\A[-+]?[0-9.]{1,3}[eEx_:o]?[-+]?[0-9a-f]{0,3}\Z")
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | NUMBER_LIKE
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))


@pytest.mark.parametrize("flow", [True, False, None])
@given(value=st.dictionaries(TEXT | NUMBER_LIKE, VALUES, max_size=3))
@example({"module": "1e3"})
@example({"1e3": "0o17", "on": "on", "null": "~", "<<": "<<", "": ""})
@example({"value": 1e-7, "large": 1e300})
def test_what_is_written_is_read_as_the_same(flow: bool | None, value: dict[str, Any]) -> None:
    text = text_of(value, default_flow_style=flow, allow_unicode=True, width=10**6)
    tree, problems = tree_from_text(text, "written")
    assert problems == [], text
    assert tree.plain() == value
    assert yaml.safe_load(text) == value, "and so do readers of YAML 1.1"
