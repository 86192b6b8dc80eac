# The one epoll of a loop: descriptors of Python's by their number, ours by their address.

cdef enum:
    EVENTS = 256
    CHUNK = 262144        # bytes that are read at once


cdef class Pump:
    """The selector of one event loop, and all its connections. Used by the thread of that loop alone."""

    cdef int _epoll
    cdef epoll_event[EVENTS] _events
    cdef uint8_t* _buffer         # for what is read, with room before it for the beginning of a message
    cdef object _view             # all of it, for TLS to write into
    cdef object _loop
    cdef object _ready            # what the loop calls next; it must not wait while there is something
    cdef list _conns              # all that are open, by their descriptors
    cdef readonly uint64_t connections
    """How many they are."""
    cdef list _graves             # closed in this round, whose events may still point to them
    cdef list _parked             # lanes that have something to give back or to tell
    cdef list _queues             # lanes in which clients wait, or of which that is still to be told
    cdef list _refused            # who waits, and is to be Python's at the end of this round
    cdef double _patient          # until then there is nothing for those who wait, and none has waited for too long
    cdef double _until            # the loop's next timer
    cdef list _late               # connections with their events, for `dispatch`
    cdef readonly uint64_t epoch
    """Counts how often Python has run. What it has said of a client or a tenant holds in the same epoch only."""
    cdef readonly uint64_t carried
    """Transactions that needed no Python."""
    cdef readonly uint64_t handed_over
    """Transactions that began so, and turned out to be something else."""

    def __cinit__(self):
        self._epoll = -1
        self._buffer = NULL

    def __init__(self):
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise os_error(errno)
        self._buffer = <uint8_t*>malloc(LONGEST + CHUNK)
        if self._buffer is NULL:
            raise MemoryError
        self._conns = []
        self._view = PyMemoryView_FromMemory(<char*>self._buffer, LONGEST + CHUNK, PyBUF_WRITE)
        self._graves = []
        self._parked = []
        self._queues = []
        self._refused = []
        self._late = []
        self.epoch = 1

    def __dealloc__(self):
        if self._epoll >= 0:
            c_close(self._epoll)
        free(self._buffer)

    def serve(self, loop, ready):
        """Be the selector of `loop`, which calls next what is in `ready`."""
        self._loop = loop
        self._ready = ready

    def close(self):
        """Close every connection that is left, without a word to its protocol: the loop has ended."""
        for conn in self._conns:
            if conn is not None:
                (<Conn>conn).bury()
        self._graves.clear()
        self._refused.clear()
        self._queues.clear()
        if self._epoll >= 0:
            c_close(self._epoll)
            self._epoll = -1

    @property
    def parked(self):
        """How many backends lie parked. Python sees 0, whenever it looks."""
        return sum(len((<Lane>lane).idle) for lane in self._parked)

    cdef int add(self, Conn conn) except -1:
        """Own it. A list, for the place of each in a set of thousands takes a hundred bytes."""
        if conn._fd < 0:
            raise ValueError("the socket is closed")
        while len(self._conns) <= conn._fd:
            self._conns.append(None)
        if self._conns[conn._fd] is not None:
            raise RuntimeError(f"descriptor {conn._fd} is that of a connection which is not closed")
        self._conns[conn._fd] = conn
        self.connections += 1
        return 0

    cdef int remove(self, int fd) except -1:
        self._conns[fd] = None
        self.connections -= 1
        return 0

    # --- what asyncio asks of its selector ---------------------------------------------------------------------------
    def watch(self, int fd, uint32_t mask, bint is_new):
        """Wait for events of `mask` (EPOLLIN, EPOLLOUT) on a descriptor of Python's; 0: for none any more."""
        cdef epoll_event event
        event.events = mask
        event.data.u64 = (<uint64_t>fd << 1) | 1  # an address is even
        if mask == 0:
            epoll_ctl(self._epoll, EPOLL_CTL_DEL, fd, &event)  # it may be closed already, and is forgotten then
        elif epoll_ctl(self._epoll, EPOLL_CTL_ADD if is_new else EPOLL_CTL_MOD, fd, &event) != 0:
            raise os_error(errno)

    def hurry(self, double when):
        """The loop has a timer that is due then."""
        if when < self._until:
            self._until = when

    def wait(self, timeout):
        """Serve our connections, until something happened that is the loop's; at most `timeout` seconds (None: any).

        Returns the descriptors of Python's that something happened to, with their events. What the loop has to call
        already comes before anything that happens now, as with any selector.
        """
        return self.look() if len(self._ready) else self.attend(timeout)

    cdef list look(self):
        """What has happened by now; ours is dispatched by the loop, behind what it has to call already."""
        cdef int at
        cdef uint64_t value
        cdef list found = []
        for at in range(max(epoll_wait(self._epoll, self._events, EVENTS, 0), 0)):
            value = self._events[at].data.u64
            if value & 1:
                found.append((<int>(value >> 1), self._events[at].events))
            else:
                self._late.append((<Conn>self._events[at].data.ptr, self._events[at].events))
        if self._late or self._queues or self._refused:
            self._loop.call_soon(self.dispatch)
        return found

    def dispatch(self):
        """Called from the loop."""
        cdef list late = self._late
        self._late = []
        try:
            for conn, events in late:
                (<Conn>conn).happened(events)
            self.serve_waiting()
        finally:
            self._graves.clear()
            self.python_runs()

    cdef list attend(self, timeout):
        cdef int count, at, pause
        cdef uint64_t value
        cdef double now, until
        cdef list found = []
        self._until = 0.0
        if timeout is None:
            self._until = 1e300
        elif timeout > 0:
            self._until = monotonic() + <double>timeout
        try:
            while True:
                if self._queues or self._refused:
                    self.serve_waiting()
                    if len(self._ready):
                        return found
                pause = 0
                until = min(self._until, self._patient) if self._queues else self._until
                if until > 1e299:
                    pause = -1
                elif until > 0.0:
                    now = monotonic()
                    if now < until:
                        pause = <int>min((until - now) * 1000.0 + 0.999, 3600000.0)
                with nogil:
                    count = epoll_wait(self._epoll, self._events, EVENTS, pause)
                if count < 0:
                    if errno != EINTR:
                        raise os_error(errno)
                    return found  # a signal: its handler is Python's
                for at in range(count):
                    value = self._events[at].data.u64
                    if value & 1:
                        found.append((<int>(value >> 1), self._events[at].events))
                    else:
                        (<Conn>self._events[at].data.ptr).happened(self._events[at].events)
                if self._graves:
                    self._graves.clear()
                if found or len(self._ready) or monotonic() >= self._until:
                    return found
        finally:
            self.python_runs()

    cdef int python_runs(self) except -1:
        """What is parked is given back, and what was said before is asked for again: called before Python is."""
        cdef list lanes
        self.epoch += 1
        if self._queues:
            lanes, self._queues = self._queues, []
            for lane in lanes:
                (<Lane>lane).tell_waiting()
                (<Lane>lane)._is_queued = (<Lane>lane).waiting > 0
                if (<Lane>lane)._is_queued:
                    self._queues.append(lane)
        if self._parked:
            lanes, self._parked = self._parked, []
            for lane in lanes:
                (<Lane>lane).clear()
        return 0

    # --- clients that wait -------------------------------------------------------------------------------------------
    cdef int serve_waiting(self) except -1:
        """Between two rounds of events: let clients that wait have what is there, the one that waits longest first."""
        cdef Lane lane, first = None
        cdef double now = monotonic()
        cdef bint is_due = False
        while self._refused:
            self.surrender(<Rider>self._refused.pop(0))
        for each in self._queues:
            lane = <Lane>each
            if lane._first is None:
                continue
            is_due = is_due or lane.due_at(now) <= now
            if first is None or lane._first._asked_at < first._first._asked_at:
                first = lane
        if is_due:
            self.serve_lane(first, now)
            for each in self._queues:  # those too that clients come to meanwhile, from a lane that was made again
                self.serve_lane(<Lane>each, now)
        self._patient = now if self._refused else 1e300
        for each in self._queues:
            lane = <Lane>each
            if lane._first is not None:
                self._patient = min(self._patient, lane.due_at(now))
        return 0

    cdef int serve_lane(self, Lane lane, double now) except -1:
        """Let those who wait there have what there is; where that fails they are Python's."""
        cdef Rider rider
        try:
            lane.serve(now)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            self.python_runs()
            self.broke("clients that wait in a lane could not be served", exc, None)
            while lane._first is not None:
                rider = lane._first
                lane.leave(rider)
                self.surrender(rider)
        return 0

    cdef int surrender(self, Rider rider) except -1:
        """Python is to serve a client that waits. Nothing that its relay raises leaves this."""
        try:
            self.python_runs()
            if rider.is_waiting():
                rider.settle()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            self.python_runs()
            self.broke("a protocol failed", exc, rider._conn)
        return 0

    cdef int broke(self, what, exc, Conn conn) except -1:
        """Python raised what it should not have: the connection is not used any more."""
        self._loop.call_exception_handler({"message": what, "exception": exc, "transport": conn})
        if conn is not None:
            conn.abandon(exc)
        return 0
