# A client, and the transaction of it that is under way without Python.

cdef enum Unnamed:
    AS_BEFORE = 0         # its statement without a name is what the relay believes
    GONE = 1
    THIS = 2              # what `_unnamed` holds


cdef class Rider:
    """Carries the straight transactions of one client in transaction mode. Of `relay` it asks:

    `lane() -> Lane | None`, where its next transaction may be carried now; `statement(name)`, what its statement is and
    what it was told of that, or None; `resets_nothing`, whether a RESET changes nothing; `carried(...)`, what was done,
    `take_over(...)`, what is to be gone on with, and `hold(...)`, that a transaction is open: called before the relay
    hears of anything else.
    """

    cdef Conn _conn
    cdef object _relay
    cdef Lane _lane               # in this epoch:
    cdef uint64_t _epoch
    cdef dict _statements         # by name, what `statement` said in this epoch
    cdef Conn _backend            # a transaction is under way, or open, on it; None: none is
    cdef Lane _on                 # of which lane it is
    cdef Lane _queue              # where its request waits for a backend; None: it does not, or Python is to serve it
    cdef Rider _before            # it there
    cdef Rider _behind
    cdef double _since            # when that transaction began
    cdef bint _is_open            # the server has said so
    cdef bint _has_begun          # see `ResponseStream`
    cdef uint8_t* _asked          # the request that is not answered, as the client sent it; NULL: all are
    cdef ssize_t _asked_size
    cdef Straight _case
    cdef bytes _name              # that of the statement on the backend, where the client's has a name
    cdef uint8_t* _tail           # the beginning of a message of the server's
    cdef ssize_t _tail_size
    cdef ssize_t _passed          # bytes of the answer that the client was sent
    cdef bint _is_parsed          # ParseComplete came, or none is to come
    cdef uint8_t* _unnamed
    cdef ssize_t _unnamed_size
    cdef Unnamed _unnamed_is
    cdef long _heard              # how often bytes came that the relay does not know of
    cdef double _asked_at
    cdef double _answered_at

    def __init__(self, Conn conn, relay):
        self._conn = conn
        self._relay = relay

    def __dealloc__(self):
        free(self._asked)
        free(self._tail)
        free(self._unnamed)

    # --- from the client ---------------------------------------------------------------------------------------------
    cdef bint carry(self, const uint8_t* data, ssize_t size) except -1:
        """Whether it has gone to a backend, or waits for one; else nothing has happened, and it is the relay's."""
        cdef Straight case
        cdef double now
        if self._asked is not NULL or self._conn._out is not None or self._conn._is_closing:
            return False
        case = asks(data, size)
        if case.case == ODD:
            return False
        now = monotonic()
        self._asked = <uint8_t*>malloc(size)
        if self._asked is NULL:
            return False
        memcpy(self._asked, data, size)
        self._asked_size, self._case, self._name, self._asked_at = size, case, None, now
        self._passed = self._tail_size = 0
        self._is_parsed = case.case != UNNAMED
        is_carried = False
        try:
            is_carried = self.goes_on() if self._backend is not None else self.sets_out(now)
        finally:
            if not is_carried:
                free(self._asked)
                self._asked = NULL
        return is_carried

    cdef bint goes_on(self) except -1:
        """Whether the request goes to the backend of its open transaction: it is this client's, and Python knows
        nothing of it."""
        cdef Conn backend = self._backend
        if backend._out is not None or backend._is_closing or not self.is_known_to(backend):
            return False
        self.send(backend)
        return True

    cdef bint sets_out(self, double now) except -1:
        """Whether the request begins a transaction, or waits for a backend in its lane."""
        cdef Lane lane = self.lane_at(now)
        cdef Conn backend = None
        cdef bint is_new = False
        if lane is None:
            return False
        if lane._first is None and lane.others_first() is not None:
            lane.ask_room(True)
            lane._is_due = True
        elif lane._first is None:
            backend = lane.take(now, &is_new)
        if backend is not None:
            is_begun = False
            try:
                is_begun = self.begin(lane, backend, is_new, now)
            finally:
                if not is_begun and self._backend is None:
                    lane.give_unused(backend, is_new)
            return is_begun
        if lane.waiting >= lane._room or self._asked_size > MOST_UNNAMED:
            return False
        lane.join(self)
        return True

    cdef Lane lane_at(self, double now):
        """Where its next transaction may be carried; None: nowhere without Python."""
        cdef Pump pump = self._conn._pump
        if self._epoch != pump.epoch:
            self._lane = self._statements = None
            self._epoch = pump.epoch
            self._lane = self._relay.lane()
        return None if self._lane is None or now >= self._lane.until else self._lane

    cdef bint begin(self, Lane lane, Conn backend, bint is_new, double now) except -1:
        """Whether the transaction begins on `backend`; else its statement is not there, and nothing has happened."""
        if not self.is_known_to(backend):
            return False
        if now > self._asked_at:
            lane.count_wait(now - self._asked_at)
        lane._reused += not is_new
        self._asked_at = self._since = now
        self._is_open = self._has_begun = False
        self._on = lane
        self._backend = backend
        backend._client = self
        self.send(backend)
        return True

    cdef bint is_known_to(self, Conn backend) except -1:
        """Whether the request can be sent there without Python."""
        if self._case.case != NAMED:
            return True
        self._name = self.name_on(self._asked + self._case.name_at, self._case.name_ends - self._case.name_at, backend)
        return self._name is not None

    cdef bint is_waiting(self) noexcept:
        """Whether its request waits for a backend."""
        return self._asked is not NULL and self._backend is None

    cdef bytes name_on(self, const uint8_t* data, ssize_t size, Conn backend):
        """Under which name the client's statement is on the backend; None: Python has to look into it."""
        cdef bytes key = PyBytes_FromStringAndSize(<const char*>data, size)
        known = None if self._statements is None else self._statements.get(key)
        if known is None:
            known = self._relay.statement(key)
            if known is None:
                return None
            if self._statements is None:
                self._statements = {}
            self._statements[key] = known
        statement, told = known
        return statement.name if backend._protocol.prepared.serves(statement, told) else None

    cdef bytes sent(self):
        """What goes out for the request: a Bind with the statement's name on the backend."""
        cdef bytes out
        cdef uint8_t* to
        cdef ssize_t name_size, at = self._case.name_at, ends = self._case.name_ends
        if self._name is None:
            return PyBytes_FromStringAndSize(<const char*>self._asked, self._asked_size)
        name_size = PyBytes_GET_SIZE(self._name)
        out = PyBytes_FromStringAndSize(NULL, self._asked_size - (ends - at) + name_size)
        to = <uint8_t*>PyBytes_AS_STRING(out)
        memcpy(to, self._asked, at)
        memcpy(to + at, PyBytes_AS_STRING(self._name), name_size)
        memcpy(to + at + name_size, self._asked + ends, self._asked_size - ends)
        put32(to + 1, be32(self._asked + 1) + <uint32_t>(name_size - (ends - at)))
        return out

    cdef int send(self, Conn backend) except -1:
        cdef bytes out = None
        cdef const uint8_t* data = self._asked
        cdef ssize_t size = self._asked_size, sent
        if self._name is not None:
            out = self.sent()
            data, size = <const uint8_t*>PyBytes_AS_STRING(out), PyBytes_GET_SIZE(out)
        if backend._tls is not None:
            out = backend.seal(plain(data, size))
            if backend._is_lost:
                return 0
            data, size = <const uint8_t*>PyBytes_AS_STRING(out), PyBytes_GET_SIZE(out)
        sent = c_send(backend._fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent == size:
            return 0
        if sent < 0:
            if backend.failed(errno):
                return 0
            sent = 0
        backend.queue(PyBytes_FromStringAndSize(<const char*>data + sent, size - sent))
        return 0

    # --- from the server ---------------------------------------------------------------------------------------------
    cdef ssize_t put_tail(self, uint8_t* to) noexcept:
        """What has come of a message; the rest is read behind it."""
        if self._tail_size:
            memcpy(to, self._tail, self._tail_size)
        return self._tail_size

    cdef int answered(self, const uint8_t* data, ssize_t size) except -1:
        """`data` begins with what `put_tail` put there."""
        cdef Conn conn = self._conn, backend = self._backend
        cdef Pump pump = conn._pump
        cdef Lane lane
        cdef ssize_t heard = 0
        cdef bint is_parsed = self._is_parsed, has_begun = self._has_begun
        cdef Heard found = LOOK
        cdef bint is_reset = False
        if self._asked is not NULL:
            found = hears(data, size, &heard, &is_parsed, &has_begun)
        if found == RESET:
            found = DONE if self._relay.resets_nothing else LOOK
            is_reset = found == DONE
        # Where the server answers before it has all of the request, the rest of that is ahead of the next one.
        if (
            found == LOOK or conn._out is not None or backend._out is not None
            or not self.keep(data + heard, size - heard)
        ):
            self._tail_size = 0
            pump.python_runs()
            self.settle()
            backend.feed(data, size)
            return 0
        self._is_parsed, self._has_begun = is_parsed, has_begun
        self._passed += heard
        self._heard += 1
        lane = self._on
        if found != MORE:
            self.conclude(found == OPEN)
        try:
            if heard:
                self.pass_on(data, heard)
        except Exception:
            conn.force_close(None)  # a part of an answer must not be taken for all of it
            raise
        finally:
            # Behind the answer: what Python does with a backend that is given back must not come before it, nor keep it.
            if found == DONE:
                self.give_back(lane, backend, is_reset)
        return 0

    cdef int pass_on(self, const uint8_t* data, ssize_t size) except -1:
        """Send it to the client."""
        cdef Conn conn = self._conn
        cdef bytes sealed
        cdef ssize_t sent
        if conn._tls is not None:
            sealed = conn.seal(plain(data, size))
            if conn._is_lost:
                return 0
            data, size = <const uint8_t*>PyBytes_AS_STRING(sealed), PyBytes_GET_SIZE(sealed)
        sent = c_send(conn._fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent != size and not (sent < 0 and conn.failed(errno)):
            self.stuck(PyBytes_FromStringAndSize(<const char*>data + max(sent, 0), size - max(sent, 0)))
        return 0

    cdef bint keep(self, const uint8_t* data, ssize_t size) noexcept:
        """Keep the beginning of a message; False: there is no memory."""
        free(self._tail)
        self._tail, self._tail_size = NULL, 0
        if size:
            self._tail = <uint8_t*>malloc(size)
            if self._tail is NULL:
                return False
            memcpy(self._tail, data, size)
            self._tail_size = size
        return True

    cdef int stuck(self, bytes rest) except -1:
        """The client's connection does not take this yet."""
        cdef Conn conn = self._conn
        conn.queue(rest)
        if <size_t>len(conn._out) > conn._high:
            conn._pump.python_runs()
            self.settle()
            conn.press()
        return 0

    cdef int conclude(self, bint is_open) except -1:
        """All has been answered. Behind a transaction the backend is not the client's any more: see `give_back`."""
        cdef Lane lane = self._on
        cdef double now = monotonic()
        self._is_open = is_open
        self._answered_at = now
        self._heard += 1  # what the client said; the answer is counted
        lane.count_query(now - self._asked_at, self._asked_size, self._passed)
        if self._case.case == UNNAMED:
            free(self._unnamed)
            self._unnamed, self._unnamed_size, self._unnamed_is = self._asked, self._case.bind_at, THIS
        else:
            free(self._asked)
            if self._case.case == QUERY:
                free(self._unnamed)
                self._unnamed, self._unnamed_is = NULL, GONE
        self._asked = NULL
        if not is_open:
            self._backend._client = None
            self._backend = None
            self._on = None
            lane.count(now - self._since)
        return 0

    cdef int give_back(self, Lane lane, Conn backend, bint is_reset) except -1:
        """The backend is for the next transaction, of this tenant's clients, or the pool's where Python has run.

        Then those who wait here for longer than any in Python still come first.
        `is_reset`: by its last command, which takes the tenant from it where it is bound.
        """
        cdef Pump pump = self._conn._pump
        cdef double now = self._answered_at
        cdef Rider other
        cdef bint is_for_us
        if is_reset and lane.desk.is_bound:
            pump.python_runs()
            lane.desk.enter_again(backend._protocol)
            return 0
        other = lane.others_first()
        is_for_us = self._epoch == pump.epoch and lane.lends and now < backend._until
        if lane._first is not None:
            is_for_us = is_for_us and (other is None or now < backend._stint)
            if (is_for_us or lane.keeps(backend, other, now)) and lane.hand(backend, now):
                return 0
        elif is_for_us and other is None:
            lane.park(backend)
            return 0
        if lane.desk.is_wanted:
            pump.python_runs()
        lane.desk.take_back(backend._protocol)
        lane.returned()
        return 0

    # --- to the relay ------------------------------------------------------------------------------------------------
    cdef int settle(self) except -1:
        """Python runs, and the relay is to know all: see `Conn.settle`."""
        cdef Conn backend = self._backend
        cdef bytes data, sent, tail
        self.tell()
        if backend is None:
            return 0 if self._asked is NULL else self.ask_relay()
        if self._asked is NULL:
            return self.hold(backend)
        data = PyBytes_FromStringAndSize(<const char*>self._asked, self._asked_size)
        sent = self.sent()
        tail = PyBytes_FromStringAndSize(<const char*>self._tail, self._tail_size) if self._tail_size else b""
        has_parsed = self._is_parsed and self._case.case == UNNAMED
        desk, passed, lent, opened = self._on.desk, self._passed, backend._protocol, self.opened()
        self._conn._pump.handed_over += 1
        self.forget()
        try:
            self._relay.take_over(
                desk, lent, data, sent, opened, asked_at=self._asked_at, passed=passed, has_parsed=has_parsed
            )
        except Exception:
            desk.destroy(lent)
            self._conn.force_close(None)
            raise
        if tail:
            backend.feed(<const uint8_t*>PyBytes_AS_STRING(tail), PyBytes_GET_SIZE(tail))
        return 0

    cdef int ask_relay(self) except -1:
        """It waits: let the relay have its request, as if it came now."""
        cdef bytes data = PyBytes_FromStringAndSize(<const char*>self._asked, self._asked_size)
        cdef Lane queue = self._queue
        self.forget()
        if queue is not None:
            queue.tell_waiting()  # the pool counts it from now on
        try:
            self._conn.feed(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        except Exception:
            self._conn.force_close(None)
            raise
        return 0

    cdef int hold(self, Conn backend) except -1:
        """A transaction is open, and its client has said nothing."""
        desk, lent, opened = self._on.desk, backend._protocol, self.opened()
        self._conn._pump.handed_over += 1
        self.forget()
        try:
            self._relay.hold(desk, lent, opened, answered_at=self._answered_at)
        except Exception:
            desk.destroy(lent)
            self._conn.force_close(None)
            raise
        return 0

    cdef tuple opened(self):
        """When the transaction began, whether it is open, and what `ResponseStream` knows of that."""
        return self._since, bool(self._is_open), bool(self._has_begun)

    cdef int tell(self) except -1:
        """What is over."""
        if not self._heard:
            return 0
        heard, unnamed = self._heard, None
        if self._unnamed_is == THIS:
            unnamed = PyBytes_FromStringAndSize(<const char*>self._unnamed, self._unnamed_size)
        elif self._unnamed_is == GONE:
            unnamed = b""
        free(self._unnamed)
        self._unnamed, self._unnamed_is, self._heard = NULL, AS_BEFORE, 0
        self._relay.carried(heard, self._asked_at, self._answered_at, unnamed)
        return 0

    cdef int forget(self) except -1:
        """What is under way, or waits, is not ours any more."""
        if self._queue is not None:
            self._queue.leave(self)
        if self._backend is not None:
            self._backend._client = None
        self._backend = None
        self._on = None
        free(self._asked)
        free(self._tail)
        self._asked = self._tail = NULL
        self._tail_size = 0
        return 0

    cdef int destroy(self) except -1:
        """Something went wrong here: neither the backend nor the client is used any more."""
        cdef Conn backend = self._backend
        cdef Lane lane = self._on
        self.forget()
        if backend is not None:
            lane.desk.destroy(backend._protocol)
            self._conn.force_close(None)
        return 0
