"""Do the diagrams of the docs show the tables that the code goes by?"""

from __future__ import annotations

from tests.support.state_diagrams import PAGE, page


def test_the_page_of_the_states_is_what_their_tables_say() -> None:
    assert PAGE.read_text() == page(), "python -m tests.support.state_diagrams"
