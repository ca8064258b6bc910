"""Text files of other programs: UTF-8 with and without its mark, everything else refused with what to do."""

import pytest

from winnow.pipeline.storage.text import utf8


def test_a_mark_is_no_text():
    assert utf8("\ufeffé\r\n\ufeff猫".encode(), "a.txt") == "é\r\n\ufeff猫"
    assert utf8(b"", "a.txt") == ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "é".encode("utf-16"),
            "a.txt must be UTF-8, but it is UTF-16 or contains NUL; save it as UTF-8 (iconv -f UTF-16",
        ),
        ("\ufeffé".encode("utf-16-be"), "but it is UTF-16"),
        ("a.tar\n".encode("utf-16-le"), "but it is UTF-16 or contains NUL"),
        ("a\ncafé".encode("latin-1"), "a.txt must be UTF-8, but the byte 0xe9 of line 2 is not; save it as UTF-8"),
        ("€".encode("cp1252"), "the byte 0x80 of line 1 is not"),
        ("\udc80".encode("utf-8", "surrogatepass"), "the byte 0xed of line 1 is not"),
    ],
)
def test_another_encoding_is_refused(data: bytes, message: str):
    with pytest.raises(ValueError) as error:  # noqa: PT011  the message is looked at below
        utf8(data, "a.txt")
    assert message in str(error.value)
