"""Named parameters and statements are found where they are, and only there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard.store.sqltext import parameters, statements, to_psycopg

SCRIPT = """
-- Who is :nobody; it's a comment
SELECT ':no', "a:no", x::text, /* :no; */ $$ :no; $$, $q$ :no; $q$, :yes, :yes, :also
FROM t WHERE a LIKE '10%' AND b % 2 = 0 AND c = 'it''s :no;'
"""


def test_parameters_are_not_taken_from_strings_comments_casts_or_quotes():
    assert parameters(SCRIPT) == ("yes", "also")


def test_psycopg_gets_its_own_placeholders_and_doubled_percent_signs():
    made = to_psycopg(SCRIPT)
    assert "%(yes)s, %(yes)s, %(also)s" in made
    assert "'10%%' AND b %% 2" in made
    assert "x::text" in made
    assert "':no'" in made
    assert "it''s :no;" in made


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param("A; B;", ["A", "B"], id="two"),
        pytest.param("A; B", ["A", "B"], id="last-without-semicolon"),
        pytest.param("-- only\n/* comments */;\n  \n", [], id="comments-are-no-statement"),
        pytest.param("A ';' \";\" -- ;\n B; C", ["A ';' \";\" -- ;\n B", "C"], id="opaque"),
        pytest.param("", [], id="empty"),
    ],
)
def test_statements_end_at_semicolons_that_are_syntax(script, expected):
    assert statements(script) == expected


@given(st.text(alphabet="ab:;'\"-/*$% \n", max_size=40))
def test_no_character_is_lost_or_made_up(sql):
    assert to_psycopg(sql).replace("%%", "%").replace("%(", ":").replace(")s", "") == sql


@given(st.text(alphabet="ab'%:-$;\n", max_size=30))
def test_a_literal_of_any_text_hides_all_of_it(text):
    literal = "'" + text.replace("'", "''") + "'"
    sql = f"SELECT {literal}, :real"
    assert parameters(sql) == ("real",)
    assert statements(sql) == [sql]
