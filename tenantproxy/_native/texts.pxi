# What a message is, by its bytes alone. These read what a stranger sent: each index is below a size that was checked.

cdef enum:
    MOST = 16384          # bytes of a request that is carried
    MOST_UNNAMED = 4096   # of a Parse message: `wire.memory.FREE_BYTES`, from which on a text is counted
    LONGEST = 65536       # of an answer's message that is waited for

cdef enum Case:
    ODD = 0               # not for us
    QUERY = 1
    UNNAMED = 2           # Parse and Bind of a statement without a name
    NAMED = 3             # Bind of one with a name

cdef struct Straight:
    Case case
    ssize_t bind_at       # where the Bind message begins
    ssize_t name_at       # and the name of its statement
    ssize_t name_ends

# How libpq ends a statement: Describe and Execute of the portal without a name, Sync. As `wire.requests` has it. Drivers
# that know the shape of the rows of a statement that has a name leave Describe out.
cdef bytes _END_OF_STATEMENT = b"D\0\0\0\x06P\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04"
cdef const uint8_t* END_OF_STATEMENT = <const uint8_t*>PyBytes_AS_STRING(_END_OF_STATEMENT)
cdef enum:
    END_SIZE = 22
    DESCRIBE_SIZE = 7


cdef inline uint32_t be32(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | <uint32_t>p[3]


cdef inline void put32(uint8_t* p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 24)
    p[1] = <uint8_t>(value >> 16)
    p[2] = <uint8_t>(value >> 8)
    p[3] = <uint8_t>value


cdef inline uint32_t word(uint8_t a, uint8_t b, uint8_t c) noexcept nogil:
    """Three letters, whatever their case. With a letter only its other case is the same."""
    return (<uint32_t>(a | 0x20) << 16) | (<uint32_t>(b | 0x20) << 8) | <uint32_t>(c | 0x20)


cdef ssize_t comment_ends(const uint8_t* text, ssize_t at, ssize_t size) noexcept nogil:
    """Where a comment ends that begins there; `at` where none does, or not one that `wire.commands.word_of` skips."""
    cdef ssize_t begins = at
    if at + 2 > size or (text[at] != c"-" and text[at] != c"/"):
        return at
    if text[at] == c"-":
        if text[at + 1] != c"-":
            return at
        while at < size and text[at] and text[at] != 10 and text[at] != 13:
            at += 1
        return at
    if text[at + 1] != c"*":
        return at
    at += 2
    while at + 1 < size and text[at]:
        if text[at] == c"*" and text[at + 1] == c"/":
            return at + 2
        if text[at] == c"/" and text[at + 1] == c"*":
            return begins
        at += 1
    return begins


cdef bint is_read(const uint8_t* text, ssize_t size) noexcept nogil:
    """Whether it begins as one of `wire.commands.READ`, which the relay reads, behind blanks and comments."""
    cdef ssize_t at = 0, begins
    cdef uint32_t first
    while True:
        begins = at
        while at < size and (text[at] == c" " or 9 <= text[at] <= 13):
            at += 1
        at = comment_ends(text, at, size)
        if at == begins:
            break
    if at + 3 > size:
        return False
    first = word(text[at], text[at + 1], text[at + 2])
    return (
        first == word(c"s", c"e", c"t") or first == word(c"r", c"e", c"s") or first == word(c"d", c"i", c"s")
        or first == word(c"d", c"e", c"a") or first == word(c"s", c"a", c"v") or first == word(c"d", c"e", c"c")
        or first == word(c"d", c"r", c"o") or first == word(c"a", c"l", c"t") or first == word(c"c", c"r", c"e")
    )


cdef bint is_suspect(const uint8_t* data, ssize_t size, bint may_unlock) noexcept nogil:
    """Whether `wire.leftovers.SUSPECT` finds something in it, or it holds `temp` in any case.

    `may_unlock`: what only releases locks is no matter, for its client has left none.
    """
    cdef ssize_t at
    cdef uint32_t next_three
    cdef uint8_t fourth
    for at in range(size - 3):
        if (data[at] | 0x20) == c"t":
            if word(data[at + 1], data[at + 2], data[at + 3]) == word(c"e", c"m", c"p"):
                return True
        elif data[at] == c"_" and at + 4 < size:
            next_three = word(data[at + 1], data[at + 2], data[at + 3])
            fourth = data[at + 4] | 0x20
            if (
                (next_three == word(c"c", c"o", c"n") and fourth == c"f")
                or (next_three == word(c"l", c"o", c"c") and fourth == c"k")
                or (next_three == word(c"l", c"i", c"m") and fourth == c"i")
                or (next_three == word(c"u", c"n", c"l") and fourth == c"o" and not may_unlock)
            ):
                return True
    return False


cdef bint ends_brief(const uint8_t* data) noexcept nogil:
    """Whether it is Execute, of whatever number of rows, and Sync."""
    cdef const uint8_t* wanted = END_OF_STATEMENT + DESCRIBE_SIZE
    return memcmp(data, wanted, 6) == 0 and memcmp(data + 10, wanted + 10, 5) == 0


cdef Straight asks(const uint8_t* data, ssize_t size) noexcept nogil:
    """What a client asks that has nothing under way; ODD where that is not one statement, whole, that needs no look."""
    cdef Straight found
    cdef ssize_t bind_at = 0, end = size - END_SIZE, at
    found.case = ODD
    found.bind_at = found.name_at = found.name_ends = 0
    if size < 8 or size > MOST:
        return found
    if data[0] == c"Q":
        if <ssize_t>be32(data + 1) + 1 == size and not is_read(data + 5, size - 5) and not is_suspect(data, size, True):
            found.case = QUERY
        return found
    if end < 12 or memcmp(data + end, END_OF_STATEMENT, END_SIZE) != 0:
        end += DESCRIBE_SIZE
        if end < 12 or data[0] != c"B" or not ends_brief(data + end):
            return found
    if data[0] == c"P":
        bind_at = <ssize_t>be32(data + 1) + 1
        if data[5] != 0 or bind_at < 9 or bind_at > MOST_UNNAMED or is_read(data + 6, bind_at - 6):
            return found
    elif data[0] != c"B":
        return found
    if bind_at + 8 > end or data[bind_at] != c"B" or bind_at + 1 + <ssize_t>be32(data + bind_at + 1) != end:
        return found
    if data[bind_at + 5] != 0 or (bind_at and is_suspect(data, bind_at, False)):  # a portal with a name
        return found
    at = bind_at + 6
    while at < end and data[at] != 0:
        at += 1
    if at == end or (at == bind_at + 6) != (bind_at > 0):  # that of another statement than was parsed, or parsed before
        return found
    found.bind_at, found.name_at, found.name_ends = bind_at, bind_at + 6, at
    found.case = UNNAMED if bind_at else NAMED
    return found


cdef enum Heard:
    MORE = 0              # the answer goes on
    DONE = 1              # it has come, and the server is idle
    LOOK = 2              # something has to be looked at
    OPEN = 3              # it has come, and the server is in a transaction
    RESET = 4             # as DONE, and the last command was one: whether that told something is up to what was set


cdef bint is_plain_tag(const uint8_t* tag, ssize_t size, bint* has_begun) noexcept nogil:
    """Whether a command of this tag tells nothing to `sidecar.pg.session`, where nothing was set before.

    `size` is without what ends it. `has_begun`: see `ResponseStream`.
    """
    if size > 7 and (
        memcmp(tag, b"SELECT ", 7) == 0 or memcmp(tag, b"INSERT ", 7) == 0
        or memcmp(tag, b"UPDATE ", 7) == 0 or memcmp(tag, b"DELETE ", 7) == 0
    ):
        return True
    if (size == 5 and memcmp(tag, b"BEGIN", 5) == 0) or (size == 17 and memcmp(tag, b"START TRANSACTION", 17) == 0):
        has_begun[0] = True
        return True
    if (size == 6 and memcmp(tag, b"COMMIT", 6) == 0) or (size == 8 and memcmp(tag, b"ROLLBACK", 8) == 0):
        has_begun[0] = False
        return True
    if size == 8 and memcmp(tag, b"UNLISTEN", 8) == 0:
        return True
    return size == 16 and memcmp(tag, b"CLOSE CURSOR ALL", 16) == 0


cdef bint is_last(const uint8_t* data, ssize_t size) noexcept nogil:
    """Whether it is a ReadyForQuery of no transaction and nothing else."""
    return size == 6 and data[0] == c"Z" and be32(data + 1) == 5 and data[5] == c"I"


cdef Heard hears(
    const uint8_t* data, ssize_t size, ssize_t* heard, bint* is_parsed, bint* has_begun
) noexcept nogil:
    """What a server says to one statement that was sent. `heard`: where the last whole message ends, if it goes on.

    `is_parsed`: no ParseComplete may come, or no other one; it has to be true before the server is ready.
    """
    cdef ssize_t at = 0, end
    cdef uint8_t kind
    heard[0] = 0
    while size - at >= 5:
        kind = data[at]
        end = at + 1 + <ssize_t>be32(data + at + 1)
        if end < at + 5 or end - at > LONGEST:
            return LOOK
        if kind == c"D" or kind == c"T" or kind == c"2" or kind == c"n" or kind == c"I" or kind == c"s":
            pass  # rows, their shape or that there are none, BindComplete, no query, as many rows as were asked for
        elif end > size:
            break
        elif kind == c"C":
            if end - at == 11 and memcmp(data + at + 5, b"RESET", 5) == 0:
                if not is_parsed[0] or not is_last(data + end, size - end):
                    return LOOK
                heard[0] = size
                return RESET
            if not is_plain_tag(data + at + 5, end - at - 6, has_begun):
                return LOOK
        elif kind == c"1":
            if is_parsed[0] or end - at != 5:
                return LOOK
            is_parsed[0] = True
        elif kind == c"Z" and end == size and end - at == 6 and is_parsed[0]:
            heard[0] = size
            if data[at + 5] == c"I":
                return DONE
            return OPEN if data[at + 5] == c"T" else LOOK
        else:
            return LOOK
        if end > size:
            break
        at = end
    heard[0] = at
    return MORE


def case_of(bytes data):
    """What `asks` says of `data`, for tests: 0 none of our case, 1 a query, 2 unnamed, 3 named; and where it binds."""
    cdef Straight found = asks(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return <int>found.case, found.bind_at, found.name_at, found.name_ends


def heard_of(bytes data, bint is_parsed):
    """What `hears` says of `data`, for tests: 0 more to come, 1 done, 2 to be looked at, 3 open, 4 reset; how much."""
    cdef ssize_t heard = 0
    cdef bint has_begun = False
    cdef Heard found = hears(
        <const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &heard, &is_parsed, &has_begun
    )
    return <int>found, heard, is_parsed
