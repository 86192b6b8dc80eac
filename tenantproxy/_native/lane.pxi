# Backends of one tenant, leased, between two transactions that need no Python.

cdef enum:
    BUCKETS = 32


cdef class Lane:
    """Where the clients of one tenant that have the same settings share backends, while no Python runs.

    `desk` speaks for the pool; of it this asks: `lease() -> RawBackend | None`, `expires_at(backend)`,
    `unlease(backend)` for one that was not used, `is_wanted`, whether others wait for what it would `take_back(backend)`,
    `destroy(backend)`, `account(...)`, and `is_bound`, whether a RESET takes the tenant from the session: behind one it
    is to `enter_again(backend)`. But for this one, none of these may call a client.
    `bounds`: of the histogram of lease times, seconds.
    """

    cdef Pump _pump
    cdef readonly object desk
    cdef readonly list idle
    cdef public double until
    """No transaction begins from then on (monotonic) without Python: the route must be looked up again."""
    cdef bint _is_listed
    cdef int _bounds_count
    cdef double[BUCKETS] _bounds
    cdef uint32_t[BUCKETS] _held
    cdef uint64_t _reused
    cdef uint64_t _transactions
    cdef uint64_t _queries
    cdef uint64_t _received
    cdef uint64_t _sent
    cdef double _seconds
    cdef double _query_seconds

    def __init__(self, Pump pump, desk, bounds):
        if len(bounds) >= BUCKETS:
            raise ValueError("too many buckets")
        self._pump = pump
        self.desk = desk
        self.idle = []
        self._bounds_count = len(bounds)
        for at, bound in enumerate(bounds):
            self._bounds[at] = bound

    cdef Conn take(self, double now, bint* is_new):
        """A backend to carry a transaction on; None: none is free, or nothing of this tenant is carried."""
        cdef Conn backend
        is_new[0] = False
        while self.idle:
            backend = <Conn>self.idle.pop()
            if now < backend._until:
                return backend
            self.desk.take_back(backend._protocol)  # too old: its pool ends it
        lent = self.desk.lease()
        if lent is None:
            return None
        transport = lent.transport
        if type(transport) is not Conn:  # TLS
            self.desk.unlease(lent)
            self.until = 0.0
            return None
        backend = <Conn>transport
        if backend._is_closing or backend._is_ended or backend._is_paused or backend._out is not None:
            self.desk.unlease(lent)
            return None
        assert backend._client is None
        backend._until = self.desk.expires_at(lent)
        is_new[0] = True
        return backend

    cdef int give_unused(self, Conn backend, bint is_new) except -1:
        """What `take` gave, on which nothing was sent."""
        if is_new:
            self.desk.unlease(backend._protocol)
        else:
            self.park(backend)
        return 0

    cdef int park(self, Conn backend) except -1:
        self.note()
        self.idle.append(backend)
        return 0

    cdef int note(self) except -1:
        """Something is to be given back or to be told."""
        if not self._is_listed:
            self._is_listed = True
            self._pump._parked.append(self)
        return 0

    cdef int count_query(self, double seconds, ssize_t received, ssize_t sent) except -1:
        """One request was answered."""
        self.note()
        self._queries += 1
        self._query_seconds += seconds
        self._received += received
        self._sent += sent
        return 0

    cdef int count(self, double seconds) except -1:
        """One transaction was carried to its end."""
        cdef int at = 0
        self.note()
        while at < self._bounds_count and seconds > self._bounds[at]:
            at += 1
        self._held[at] += 1
        self._transactions += 1
        self._seconds += seconds
        self._pump.carried += 1
        return 0

    cdef int clear(self) except -1:
        """Python runs: what was done is counted, and the pool gets what lies here, whatever fails at that."""
        cdef list idle = self.idle
        self.idle = []
        self._is_listed = False
        try:
            self.tell()
        except Exception as exc:
            self._pump.broke("what was carried could not be counted", exc, None)
        finally:
            for conn in idle:
                try:
                    self.desk.take_back((<Conn>conn)._protocol)
                except Exception as exc:
                    self._pump.broke("a backend could not be given back", exc, <Conn>conn)
        return 0

    cdef int tell(self) except -1:
        """What was done since it was last told."""
        cdef dict held = {}
        cdef int at
        cdef tuple counts = (self._queries, self._query_seconds, self._received, self._sent)
        reused, transactions, seconds = self._reused, self._transactions, self._seconds
        for at in range(self._bounds_count + 1):
            if self._held[at]:
                held[at] = self._held[at]
                self._held[at] = 0
        self._reused = self._transactions = self._queries = self._received = self._sent = 0
        self._seconds = self._query_seconds = 0.0
        if counts[0] or reused:
            self.desk.account(reused, transactions, seconds, held, *counts)
        return 0
