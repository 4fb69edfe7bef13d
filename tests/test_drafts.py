"""Files that are written whole."""

import pytest

from clip_decomp.drafts import drafted


def test_a_file_is_replaced_at_the_end_and_not_before(tmp_path):
    file = tmp_path / "new" / "page.html"
    with drafted(file) as draft:
        draft.write_text("first")
        assert not file.exists()
    with drafted(file) as draft:
        draft.write_text("second")
        assert file.read_text() == "first"
    assert file.read_text() == "second"
    assert list(file.parent.iterdir()) == [file]


def test_an_error_leaves_the_old_file_and_no_draft(tmp_path):
    file = tmp_path / "page.html"
    file.write_text("old")

    def interrupted():
        with drafted(file) as draft:
            draft.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_two_writers_have_drafts_of_their_own(tmp_path):
    file = tmp_path / "page.html"
    with drafted(file) as one, drafted(file) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert file.read_text() == "one"
