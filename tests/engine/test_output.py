"""Files that results go to."""

from vision.engine.output import DistinctNames


def test_names_that_would_collide_without_their_suffix_get_a_number():
    distinct = DistinctNames()
    given = ["a.jpg", "a.png", "sub/a.jpg", "a.jpg", "b.png"]
    assert [str(distinct(name)) for name in given] == ["a.jpg", "a_2.png", "sub/a.jpg", "a_3.jpg", "b.png"]
