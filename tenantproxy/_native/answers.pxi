# What a server answers to one statement, where all of it has come and it is nothing but rows. `wire.results` is the
# reference: what is anything else, or is not well made, is for that to read. Each index is below a size that was checked.

cdef inline ssize_t message_ends(const uint8_t* data, ssize_t at, ssize_t size) noexcept nogil:
    """Where the message at `at` ends; -1: not all of it is there, or it is none."""
    cdef ssize_t ends
    if size - at < 5:
        return -1
    ends = at + 1 + <ssize_t>be32(data + at + 1)
    return ends if at + 5 <= ends <= size else -1


cdef list row_of(const uint8_t* data, ssize_t at, ssize_t ends, uint32_t count):
    """The texts of the row in `data[at:ends]`; None: it is not a row of `count` values. Raises UnicodeDecodeError."""
    cdef list row = []
    cdef uint32_t size, column
    if ends - at < 2 or (<uint32_t>data[at] << 8 | data[at + 1]) != count:
        return None
    at += 2
    for column in range(count):
        if ends - at < 4:
            return None
        size = be32(data + at)
        at += 4
        if size >= 0x80000000:
            row.append(None)
        elif <ssize_t>size > ends - at:
            return None
        else:
            row.append(PyUnicode_DecodeUTF8(<char*>data + at, size, NULL))
            at += size
    return row if at == ends else None


def rows_answered(bytes answer):
    """What `wire.results.SegmentReader` reads in the answer to one statement, that is whole and leaves all idle.

    `(is_parsed, description, rows, tag)`; None: it is to be read there. Raises UnicodeDecodeError, as that does.
    """
    cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(answer)
    cdef ssize_t size = PyBytes_GET_SIZE(answer), at = 0, ends, described
    cdef bint is_parsed = False
    cdef uint32_t count
    cdef list rows = [], row
    if size < 6 or memcmp(data + size - 6, b"Z\0\0\0\x05I", 6) != 0:
        return None
    size -= 6
    if size >= 5 and memcmp(data, b"1\0\0\0\x04", 5) == 0:
        is_parsed = True
        at = 5
    if size - at < 5 or memcmp(data + at, b"2\0\0\0\x04", 5) != 0:
        return None
    described = at = at + 5
    ends = message_ends(data, at, size)
    if ends < at + 7 or data[at] != c"T":
        return None
    count = <uint32_t>data[at + 5] << 8 | data[at + 6]
    at = ends
    while True:
        ends = message_ends(data, at, size)
        if ends < 0:
            return None
        if data[at] != c"D":
            break
        row = row_of(data, at + 5, ends, count)
        if row is None:
            return None
        rows.append(row)
        at = ends
    if data[at] != c"C" or ends != size or ends < at + 6:
        return None
    return (
        is_parsed,
        answer[described + 5:described + 1 + <ssize_t>be32(data + described + 1)],
        rows,
        answer[at + 5:ends - 1],
    )
