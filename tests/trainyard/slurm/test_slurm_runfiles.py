"""Log tails: bounded, by byte offset, at character borders."""

from __future__ import annotations

from trainyard.slurm.runfiles import read_tail


def test_a_tail_is_read_in_bounded_pieces_at_character_borders(tmp_path):
    path = tmp_path / "stdout.log"
    text = "schön, 日本語, 😀!\n" * 50
    path.write_text(text)
    for limit in (4, 5, 7, 64, 10_000):
        offset, pieces = 0, []
        while True:
            tail = read_tail(path, offset, limit=limit)
            assert tail.offset - offset <= limit
            pieces.append(tail.text)
            offset = tail.offset
            if not tail.more:
                break
        assert "".join(pieces) == text
        assert "�" not in "".join(pieces)


def test_a_tail_waits_for_the_rest_of_a_character_and_notices_a_new_file(tmp_path):
    path = tmp_path / "stdout.log"
    assert read_tail(path, 0).text == ""
    path.write_bytes("ab😀".encode()[:-1])
    tail = read_tail(path, 0)
    assert (tail.text, tail.offset) == ("ab", 2)
    path.write_bytes("ab😀c".encode())
    assert read_tail(path, tail.offset).text == "😀c"
    path.write_text("x")
    tail = read_tail(path, 7)
    assert (tail.text, tail.restarted, tail.offset) == ("x", True, 1)
    path.write_bytes(b"\xff\xfe")
    assert read_tail(path, 0).text == "��"
