"""Reads text files as UTF-8, without the byte order mark that editors and spreadsheets may add."""

MARK = "\ufeff"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def utf8(data: bytes, name: str) -> str:
    """The text of a UTF-8 file, without its byte order mark.

    name: of the file, for messages. Raises ValueError for another encoding; its message says what came and what to do.
    """
    if data.startswith(_UTF16) or b"\0" in data:
        raise ValueError(
            f"{name} must be UTF-8, but it is UTF-16 or contains NUL; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"
        )
    try:
        return data.decode("utf-8").removeprefix(MARK)
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        raise ValueError(
            f"{name} must be UTF-8, but the byte 0x{byte:02x} of line {line} is not; save it as UTF-8 "
            f"(iconv -f LATIN1 -t UTF-8, if it is Latin-1)"
        ) from error
