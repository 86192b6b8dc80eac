# Backends of one tenant, leased, between two transactions that need no Python, and the clients that wait for one.

cdef enum:
    BUCKETS = 32

cdef double STINT = 0.01  # seconds that a backend serves a lane though clients have waited for longer in another one


cdef enum Offer:
    TAKEN = 0             # the client has the backend
    UNKNOWN = 1           # its statement is not there: Python prepares it
    BROKEN = 2            # its relay failed, and it is ended


cdef class Lane:
    """Where the clients of one tenant that have the same settings share backends, while no Python runs.

    `desk` speaks for the pool; of it this asks: `lease() -> RawBackend | None`, `expires_at(backend)`,
    `unlease(backend)` for one that was not used, `is_wanted`, whether others wait for what it would `take_back(backend)`,
    `destroy(backend)`, `account(...)`, and `is_bound`, whether a RESET takes the tenant from the session: behind one it
    is to `enter_again(backend)`. Of those who wait here: `room`, how many may, after there was nothing to lease, and
    `room_behind`, how many behind those of other lanes; `keep(backend, since)`, until when a backend may go on here to one
    who waits since then, and not to its pool, 0: it may not; `waits(count)`, how many do; `patience`, for how long at
    most, seconds; `pool` and `route.tenant`: lanes where both are the same share backends.
    But for `take_back`, none of these may call a client.
    `bounds`: of the histograms of lease and wait times, seconds.

    Invariant: while a client waits, no backend is parked here or where it is shared, but for one on which Python is to
    prepare a statement. Clients wait in the order in which they asked.
    """

    cdef Pump _pump
    cdef readonly object desk
    cdef readonly list idle
    cdef public double until
    """No transaction begins from then on (monotonic) without Python: the route must be looked up again."""
    cdef public bint lends
    """Whether it may lease from the pool in this epoch; False: the tenant's clients that Python serves come first."""
    cdef object _pool
    cdef object _tenant
    cdef double _patience
    cdef Rider _first             # of those who wait
    cdef Rider _last
    cdef readonly long waiting
    """How many clients wait here."""
    cdef long _told               # the desk of these
    cdef long _room               # what the desk said when there was last nothing to lease
    cdef bint _is_queued          # it is one of the pump's `_queues`
    cdef bint _is_due             # there may be a backend for those who wait
    cdef uint64_t _tried          # in which epoch there was none
    cdef bint _is_listed
    cdef int _bounds_count
    cdef double[BUCKETS] _bounds
    cdef uint32_t[BUCKETS] _held
    cdef uint32_t[BUCKETS] _waits
    cdef double _wait_seconds
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
        self.lends = True
        self._pool, self._tenant = desk.pool, desk.route.tenant
        self._patience = desk.patience
        self._bounds_count = len(bounds)
        for at, bound in enumerate(bounds):
            self._bounds[at] = bound

    cdef Conn take(self, double now, bint* is_new):
        """A backend to carry a transaction on; None: none is free, or nothing of this tenant is carried.

        Then `_room` says how many may wait for one.
        """
        cdef Conn backend
        self._room = 0
        is_new[0] = False
        while self.idle:
            backend = <Conn>self.idle.pop()
            if now < backend._until:
                return backend
            self.desk.take_back(backend._protocol)  # too old: its pool ends it
        lent = self.desk.lease() if self.lends else None
        if lent is None and self.lends and self.reclaim():
            lent = self.desk.lease()
        if lent is None:
            self.ask_room(False)
            self._is_due, self._tried = False, self._pump.epoch
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
        backend._until, backend._stint = self.desk.expires_at(lent), now + STINT
        is_new[0] = True
        return backend

    cdef int ask_room(self, bint is_behind) except -1:
        """How many may wait here; `is_behind`: those who wait in other lanes."""
        for lane in self._pump._queues:
            (<Lane>lane).tell_waiting()  # what they leave is its room
        self._room = self.desk.room_behind if is_behind else self.desk.room
        return 0

    cdef bint reclaim(self) except -1:
        """Whether the pool has got what lay parked in lanes that share with this one."""
        cdef bint found = False
        for lane in self._pump._parked:
            if self.shares_with(<Lane>lane) and (<Lane>lane).idle:
                (<Lane>lane).release()
                found = True
        return found

    cdef bint shares_with(self, Lane other) except -1:
        return other is not self and other._pool is self._pool and other._tenant == self._tenant

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

    # --- those who wait ----------------------------------------------------------------------------------------------
    cdef int join(self, Rider rider) except -1:
        """It waits here, behind those who asked before it."""
        cdef Rider before = self._last, behind = None
        while before is not None and before._asked_at > rider._asked_at:  # it comes from a lane that was made again
            before, behind = before._before, before
        rider._queue, rider._before, rider._behind = self, before, behind
        if before is None:
            self._first = rider
        else:
            before._behind = rider
        if behind is None:
            self._last = rider
        else:
            behind._before = rider
        self.waiting += 1
        if not self._is_queued:
            self._is_queued = True
            self._pump._queues.append(self)
        return 0

    cdef int leave(self, Rider rider) except -1:
        """It waits here no longer."""
        cdef Rider before = rider._before, behind = rider._behind
        if before is None:
            self._first = behind
        else:
            before._behind = behind
        if behind is None:
            self._last = before
        else:
            behind._before = before
        rider._queue = rider._before = rider._behind = None
        self.waiting -= 1
        return 0

    cdef bint has(self, Rider rider, double now) except -1:
        """Whether the first of those who wait is still to be served here; else it is not among them any more."""
        cdef Lane lane = None
        try:
            if rider._conn._out is None and not rider._conn._is_closing:
                lane = rider.lane_at(now)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            self._pump.python_runs()
            self._pump.broke("a protocol failed", exc, rider._conn)
            return False
        if lane is self:
            return True
        self.leave(rider)
        if lane is None:
            self._pump._refused.append(rider)
        else:  # what was known of the tenant was looked up again
            lane.join(rider)
            lane._is_due = True
            self.tell_waiting()
            lane.tell_waiting()
        return False

    cdef Offer offer(self, Rider rider, Conn backend, bint is_new, double now) except *:
        """Let it have `backend`; it does not wait here any more."""
        self.leave(rider)
        try:
            return TAKEN if rider.begin(self, backend, is_new, now) else UNKNOWN
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # its own, and not that of the client whose answer has just come
            is_taken = rider._backend is backend
            self._pump.python_runs()
            self._pump.broke("a protocol failed", exc, rider._conn)
            return TAKEN if is_taken else BROKEN

    cdef bint hand(self, Conn backend, double now) except -1:
        """Whether one of those who wait has `backend`, which has just become free, or is to have it in Python."""
        cdef Rider rider
        cdef Offer said
        cdef uint64_t epoch = self._pump.epoch
        while self._first is not None and epoch == self._pump.epoch:  # else its pool is to be asked again
            rider = self._first
            if not self.has(rider, now):
                continue
            said = self.offer(rider, backend, False, now)
            if said == UNKNOWN:
                self.park(backend)  # up to the end of this round: then it is the relay's
                self._pump._refused.append(rider)
            return said != BROKEN
        return False

    cdef Rider others_first(self):
        """Who has waited longest in other lanes for what this one has too; None: no client waits there."""
        cdef Rider first = None, its
        for lane in self._pump._queues:
            its = (<Lane>lane)._first
            if its is not None and self.shares_with(<Lane>lane) and (first is None or its._asked_at < first._asked_at):
                first = its
        return first

    cdef bint keeps(self, Conn backend, Rider other, double now) except -1:
        """Whether `backend` goes on here, and not to its pool, for which `other` waits in another lane."""
        cdef double since = self._first._asked_at
        if other is not None and other._asked_at < since:
            return False
        backend._until, backend._stint = self.desk.keep(backend._protocol, since), now + STINT
        return now < backend._until

    cdef int returned(self) except -1:
        """Its pool has got a backend back."""
        for lane in self._pump._queues:
            if lane is self or self.shares_with(<Lane>lane):
                (<Lane>lane)._is_due = True
        return 0

    cdef int serve(self, double now) except -1:
        """Let those who wait have what there is. Who has waited for too long is Python's, as all where none may wait."""
        cdef Pump pump = self._pump
        cdef Rider rider
        cdef Conn backend
        cdef bint is_new = False
        cdef Offer said
        while self._first is not None:
            rider = self._first
            if rider._asked_at + self._patience <= now:
                self.leave(rider)
                pump.surrender(rider)
                continue
            if self.due_at(now) > now:
                break
            if not self.has(rider, now):
                continue
            backend = self.take(now, &is_new)
            if backend is not None:
                said = self.offer(rider, backend, is_new, now)
                if said != TAKEN:
                    self.give_unused(backend, is_new)
                if said == UNKNOWN:
                    pump.surrender(rider)
            elif self._room <= 0:
                self.leave(rider)
                pump.surrender(rider)
        return 0

    cdef double due_at(self, double now) noexcept:
        """From when on there may be something for those who wait, or the first of them has waited for too long."""
        return now if self._is_due or self._tried != self._pump.epoch else self._first._asked_at + self._patience

    cdef int tell_waiting(self) except -1:
        """Its pool is to know how many wait."""
        if self._told != self.waiting:
            self._told = self.waiting
            self.desk.waits(self.waiting)
        return 0

    # --- what is counted ---------------------------------------------------------------------------------------------
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

    cdef int bucket(self, double seconds) noexcept:
        cdef int at = 0
        while at < self._bounds_count and seconds > self._bounds[at]:
            at += 1
        return at

    cdef int count_wait(self, double seconds) except -1:
        """One client has waited, and has got a backend."""
        self.note()
        self._waits[self.bucket(seconds)] += 1
        self._wait_seconds += seconds
        return 0

    cdef int count(self, double seconds) except -1:
        """One transaction was carried to its end."""
        self.note()
        self._held[self.bucket(seconds)] += 1
        self._transactions += 1
        self._seconds += seconds
        self._pump.carried += 1
        return 0

    cdef int clear(self) except -1:
        """Python runs: what was done is counted, and the pool gets what lies here, whatever fails at that."""
        self._is_listed = False
        try:
            self.tell()
        except Exception as exc:
            self._pump.broke("what was carried could not be counted", exc, None)
        finally:
            self.release()
        return 0

    cdef int release(self) except -1:
        """The pool gets what lies here."""
        cdef list idle = self.idle
        self.idle = []
        for conn in idle:
            try:
                self.desk.take_back((<Conn>conn)._protocol)
            except Exception as exc:
                self._pump.broke("a backend could not be given back", exc, <Conn>conn)
        return 0

    cdef int tell(self) except -1:
        """What was done since it was last told."""
        cdef dict held = {}, waits = {}
        cdef int at
        cdef tuple counts = (self._queries, self._query_seconds, self._received, self._sent)
        reused, transactions, seconds = self._reused, self._transactions, self._seconds
        for at in range(self._bounds_count + 1):
            if self._held[at]:
                held[at] = self._held[at]
                self._held[at] = 0
            if self._waits[at]:
                waits[at] = self._waits[at]
                self._waits[at] = 0
        wait_seconds, self._wait_seconds = self._wait_seconds, 0.0
        self._reused = self._transactions = self._queries = self._received = self._sent = 0
        self._seconds = self._query_seconds = 0.0
        if counts[0] or reused or waits:
            self.desk.account(reused, transactions, seconds, held, *counts, waits, wait_seconds)
        return 0
