"""The list of promises that `benchmarks.mutations` breaks goes with today's code."""

from benchmarks.mutations import MUTATIONS, misplaced


def test_what_is_to_be_broken_stands_where_the_list_says() -> None:
    assert [why for one in MUTATIONS if (why := misplaced(one))] == []
    assert len({one.promise for one in MUTATIONS}) == len(MUTATIONS) == 52
