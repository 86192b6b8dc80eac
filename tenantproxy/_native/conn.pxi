# One connection: what asyncio calls a transport.

cdef object _BufferedProtocol = asyncio.BufferedProtocol
cdef object _WantRead = ssl.SSLWantReadError
cdef object _ZeroReturn = ssl.SSLZeroReturnError
cdef object _SSLError = ssl.SSLError

cdef enum:
    HIGH = 65536          # bytes that wait, from which on the protocol is asked to pause
    SMALL = 4096          # bytes that are copied rather than looked at
    SEALED = 65536        # bytes of TLS that are read at once: what comes of them fits into the buffer
    PLAIN = 16384         # bytes that fit into one record of it
    RECORD = 18437        # of a whole one, in any version
    OWN = 1000            # see `connect.tls_records`
    OWN_AT_ONCE = 32


cdef object plain(const uint8_t* data, ssize_t size):
    """Bytes for `seal`."""
    if size <= SMALL:
        return PyBytes_FromStringAndSize(<char*>data, size)
    return PyMemoryView_FromMemory(<char*>data, size, PyBUF_READ)


cdef ssize_t first_record(const uint8_t* data, ssize_t size) noexcept nogil:
    """As `connect.tls_records.first_record`."""
    cdef ssize_t whole
    if size < 5:
        return 0
    whole = 5 + (data[3] << 8 | data[4])
    if data[0] < 20 or data[0] > 24 or data[1] != 3 or whole > RECORD:
        return size
    return whole if size >= whole else 0


cdef class Conn:
    """A stream socket on a `Pump`, which owns it. Its interface is asyncio.Transport's.

    `protocol.connection_lost` is called from the loop, once, also when it is closed or lost within another call.
    After `encrypt` all that passes is encrypted, for the protocol as for a rider, which both know nothing of it.
    """

    cdef Pump _pump
    cdef object _protocol
    cdef object _sock             # None: no one has asked for it since the login
    cdef object _peer             # its name, as it was at the beginning
    cdef bytearray _out           # what the kernel has not taken; None: nothing
    cdef size_t _high
    cdef size_t _low
    cdef int _fd                  # -1: closed
    cdef uint32_t _mask
    cdef bint _is_buffered        # the protocol is an asyncio.BufferedProtocol
    cdef bint _is_paused
    cdef bint _is_closing
    cdef bint _is_lost            # connection_lost is on its way
    cdef bint _is_ended           # no more is written
    cdef bint _is_told            # the protocol was asked to pause
    cdef bint _rides              # its protocol is a client's relay, whose straight transactions are carried
    cdef Rider _rider             # this client's; None also while it rests
    cdef Rider _client            # whose transaction this backend carries
    cdef double _until            # a parked backend is not lent any more from then on
    cdef double _stint            # nor to a client that waits in its lane while others do in lanes that share it
    cdef object _session          # an ssl.SSLObject whose handshake is over; None: nothing is encrypted
    cdef object _tls              # what it calls to read and write, and its BIOs
    cdef object _tls_in
    cdef object _tls_out
    cdef bytes _tls_rest          # the beginning of a record; None: nothing
    cdef int _own                 # records that said something of TLS alone
    cdef bint _is_over            # the peer has ended TLS
    cdef bint _has_said_over      # we have

    _start_tls_compatible = True  # what asyncio asks before it puts TLS upon it

    def __init__(self, Pump pump, sock, protocol, peer=None):
        self._pump = pump
        self._sock = sock
        self._fd = sock.fileno()
        self._high, self._low = HIGH, HIGH // 4
        if peer is None:
            try:
                peer = sock.getpeername()
            except OSError:
                peer = None
        self._peer = peer
        self.set_protocol(protocol)
        pump.add(self)

    def __repr__(self):
        return f"<Conn fd={self._fd}{' closing' if self._is_closing else ''}>"

    def begin(self, waiter=None):
        """Tell the protocol, then read. Called from the loop."""
        if self._fd >= 0:
            try:
                self._protocol.connection_made(self)
                if not (self._is_closing or self._is_paused):
                    self.register(EPOLLIN)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as exc:
                self._pump.broke("a protocol failed", exc, self)
        if waiter is not None and not waiter.cancelled():
            waiter.set_result(None)

    # --- events ------------------------------------------------------------------------------------------------------
    cdef int register(self, uint32_t mask) except -1:
        cdef epoll_event event
        if mask == self._mask or self._fd < 0:
            return 0
        event.events = mask
        event.data.ptr = <void*>self
        if mask == 0:
            epoll_ctl(self._pump._epoll, EPOLL_CTL_DEL, self._fd, &event)
        elif epoll_ctl(self._pump._epoll, EPOLL_CTL_MOD if self._mask else EPOLL_CTL_ADD, self._fd, &event) != 0:
            raise os_error(errno)
        self._mask = mask
        return 0

    cdef int happened(self, uint32_t events) except -1:
        """Called by the pump. Nothing that a protocol raises leaves it."""
        if self._fd < 0 or self._is_lost:
            return 0  # closed in this very round
        try:
            if events & (EPOLLOUT | EPOLLERR | EPOLLHUP) and self._out is not None:
                self._pump.python_runs()
                self.send_on()
            if events & ~<uint32_t>EPOLLOUT and self._mask & EPOLLIN:
                self.read()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # one client's, as asyncio has it: a CancelledError too
            self._pump.python_runs()
            self._pump.broke("a protocol failed", exc, self)
        return 0

    cdef int read(self) except -1:
        cdef ssize_t size, before = 0
        cdef uint8_t* data = self._pump._buffer
        if self._client is not None:
            before = self._client.put_tail(data)
        if self._tls is not None:
            size = self.read_sealed(data + before)
            if size < 0:
                return 0
        else:
            size = c_recv(self._fd, data + before, CHUNK, MSG_DONTWAIT)
        if size < 0:
            self.failed(errno)
        elif size == 0:
            self._pump.python_runs()
            self.ended()
        elif self._client is not None:
            self._client.answered(data, before + size)
        elif not self._rides or not self.rider().carry(data, size):
            self._pump.python_runs()
            if self._rider is not None:
                self._rider.settle()
            self.feed(data, size)
        if self._is_over and self._fd >= 0 and not self._is_lost:
            self._is_over = False
            self._pump.python_runs()
            self.ended()
        return 0

    # --- TLS ---------------------------------------------------------------------------------------------------------
    def encrypt(self, session, incoming, outgoing):
        """Encrypt from now on. `session`: an ssl.SSLObject between these two BIOs, whose handshake is over.

        What had come before and is not of the handshake is to be given to `received`.
        """
        if self._tls is not None:
            raise RuntimeError("it is encrypted already")
        # Its `read` and `write` are those of the object below with a frame of Python around them.
        self._session, self._tls = session, getattr(session, "_sslobj", session)
        self._tls_in, self._tls_out = incoming, outgoing

    def flush(self):
        """Send what TLS has to say for itself."""
        if self._tls is not None:
            self.flush_sealed()

    def received(self, data):
        """Take `data` as what has come, and pass on what is in it."""
        cdef bytes piece
        cdef ssize_t got
        cdef uint8_t* to = self._pump._buffer
        for at in range(0, len(data), SEALED):
            if self._is_closing or self._fd < 0:
                return
            piece = (self._tls_rest or b"") + data[at : at + SEALED]
            memcpy(to, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))
            got = self.unseal(to, PyBytes_GET_SIZE(piece))
            if got > 0:
                self.feed(to, got)
            if self._is_over:
                self._is_over = False
                self.ended()

    cdef ssize_t read_sealed(self, uint8_t* to) except -2:
        """What comes of the bytes that are there, put to `to`; 0: the peer has ended; -1: nothing yet, or it is lost."""
        cdef ssize_t size, kept = 0, got
        if self._tls_rest is not None:
            kept = PyBytes_GET_SIZE(self._tls_rest)
            memcpy(to, PyBytes_AS_STRING(self._tls_rest), kept)
        size = c_recv(self._fd, to + kept, SEALED, MSG_DONTWAIT)
        if size < 0:
            self.failed(errno)
            return -1
        if size == 0:
            return 0
        got = self.unseal(to, kept + size)
        if got == 0:
            return 0 if self.is_over_now() else -1
        return got

    cdef ssize_t unseal(self, uint8_t* data, ssize_t size) except -2:
        """Put what is in the records of `data` in their place: it is never longer; -1: the connection is lost by it.

        OpenSSL gets one record at a time, for its buffers do not shrink again, and records of TLS's own are counted.
        """
        cdef ssize_t at = 0, got = 0, part, whole
        cdef int own = 0
        self._tls_rest = None
        try:
            while at < size and not self._is_over:
                whole = first_record(data + at, size - at)
                if whole == 0:
                    self._tls_rest = PyBytes_FromStringAndSize(<char*>data + at, size - at)
                    break
                self._tls_in.write(plain(data + at, whole))
                at += whole
                try:
                    if data == self._pump._buffer and got == 0:
                        part = self._tls.read(CHUNK, self._pump._view)
                    else:
                        part = self._tls.read(CHUNK - got, PyMemoryView_FromMemory(<char*>data + got, CHUNK - got, PyBUF_WRITE))
                except _WantRead:
                    own += 1
                    self._own += 1
                    if own > OWN_AT_ONCE or self._own > OWN:
                        raise _SSLError("the peer sends new keys and the like, over and over")
                    continue
                got += part
                if part == 0:
                    self._is_over = True
        except _ZeroReturn:
            self._is_over = True
        except _SSLError as exc:
            self._pump.python_runs()
            self.flush_sealed()
            self.force_close(exc)
            return -1
        if self._tls_out.pending:
            self.flush_sealed()  # the answer to a new key
        return got

    cdef bint is_over_now(self):
        """Whether the peer has ended, and it is told now."""
        was, self._is_over = self._is_over, False
        return was

    cdef bytes seal(self, data):
        """`data` as it goes out; empty: the connection is lost by it."""
        cdef list parts
        try:
            if len(data) <= PLAIN:
                self._tls.write(data)
                return self._tls_out.read()
            data, parts = memoryview(data), []
            for at in range(0, len(data), PLAIN):  # OpenSSL's buffers do not shrink again
                self._tls.write(data[at : at + PLAIN])
                parts.append(self._tls_out.read())
            return b"".join(parts)
        except _SSLError as exc:
            self._pump.python_runs()
            self.force_close(exc)
            return b""

    cdef int flush_sealed(self) except -1:
        """What TLS itself has to say."""
        cdef bytes whole
        if self._tls_out.pending and self._fd >= 0 and not self._is_lost:
            whole = self._tls_out.read()
            self.send_or_queue(whole)
        return 0

    cdef int send_or_queue(self, bytes whole) except -1:
        cdef ssize_t sent
        if self._out is None:
            sent = c_send(self._fd, PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole), MSG_NOSIGNAL | MSG_DONTWAIT)
            if sent == PyBytes_GET_SIZE(whole):
                return 0
            if sent < 0:
                if self.failed(errno):
                    return 0
                sent = 0
            whole = whole[sent:]
        self.queue(whole)
        return 0

    cdef int say_over(self) except -1:
        """Tell the peer that nothing more comes, as TLS does."""
        if self._tls is None or self._has_said_over or self._fd < 0 or self._is_lost:
            return 0
        self._has_said_over = True
        try:
            self._session.unwrap()
        except _SSLError:
            pass  # it is said; what the peer answers comes as anything else
        return self.flush_sealed()

    cdef int feed(self, const uint8_t* data, ssize_t size) except -1:
        """Let the protocol have it."""
        assert not self._pump._parked
        cdef bytes given = PyBytes_FromStringAndSize(<const char*>data, size)
        if self._is_lost or self._fd < 0:
            return 0
        if not self._is_buffered:
            self._protocol.data_received(given)
            return 0
        at = 0
        while at < size:
            room = memoryview(self._protocol.get_buffer(size - at)).cast("B")
            fits = min(len(room), size - at)
            if not fits:
                raise RuntimeError("a protocol has no room for what came")
            room[:fits] = given[at : at + fits]
            self._protocol.buffer_updated(fits)
            at += fits
        return 0

    cdef int ended(self) except -1:
        """The peer sends no more."""
        self.let_go()
        if self._fd < 0 or self._is_lost:
            return 0
        self.register(self._mask & ~<uint32_t>EPOLLIN)
        if not self._protocol.eof_received():
            self.close()
        return 0

    cdef int let_go(self) except -1:
        """What is carried on it is the relay's from now on."""
        if self._rider is not None:
            self._rider.settle()
        if self._client is not None:
            self._client.settle()
        return 0

    def settle(self):
        """What was carried on this connection, and is being carried, becomes known to the relay and is its own.

        After that the relay is as if it had done all of it itself. Called before its state is asked for.
        """
        self.let_go()

    @property
    def is_carrying(self):
        """Whether a transaction of this client, or on this backend, is under way without Python, or waits in a lane."""
        cdef Rider rider = self._rider
        return self._client is not None or (
            rider is not None and (rider._backend is not None or rider._asked is not NULL)
        )

    @property
    def waiting_since(self):
        """When this client began to wait in a lane (monotonic); 0.0: it does not."""
        return self._rider._asked_at if self._rider is not None and self._rider.is_waiting() else 0.0

    def ride(self, relay):
        """Carry the straight transactions of this client, for `relay`, its protocol. See `Rider` for what is asked of it."""
        if relay is not self._protocol:
            raise ValueError("a client's relay must be its protocol")
        self._rides = True
        if type(self._sock) is _socket.socket:  # Python's object is needed no more: see `socket`
            self._sock.detach()
            self._sock = None

    cdef Rider rider(self):
        if self._rider is None:
            self._rider = Rider(self, self._protocol)
        return self._rider

    def rest(self):
        """Settle, and keep nothing for carrying until the next request; False: a transaction is under way."""
        if self.is_carrying:
            return False
        self.let_go()
        self._rider = None
        return True

    cdef object socket(self):
        """Python's object, made again where it was let go; it is the owner of the descriptor then."""
        if self._sock is None:
            self._sock = _socket.socket(fileno=self._fd)
            self._sock.setblocking(False)
        return self._sock

    cdef object socket_name(self):
        if self._sock is not None or self._fd < 0:
            return None if self._sock is None else self._sock.getsockname()
        sock = _socket.socket(fileno=self._fd)
        try:
            return sock.getsockname()
        finally:
            sock.detach()

    # --- writing -----------------------------------------------------------------------------------------------------
    def write(self, data):
        """See asyncio.WriteTransport."""
        cdef bytes whole
        if self._is_ended:
            raise RuntimeError("cannot write behind the end")
        if self._fd < 0 or self._is_lost or not data:
            return
        whole = data if type(data) is bytes else bytes(data)
        if self._tls is not None:
            if self._has_said_over:
                return
            whole = self.seal(whole)
            if self._is_lost:
                return
        self.send_or_queue(whole)
        self.press()

    cdef bint failed(self, int number) except -1:
        """A call of the system's has; whether the connection is lost by that, and not only busy."""
        if number == EAGAIN or number == EINTR:
            return False
        self._pump.python_runs()
        self.force_close(os_error(number))
        return True

    cdef int queue(self, bytes rest) except -1:
        """The kernel has not taken this."""
        if self._out is None:
            self._out = bytearray(rest)
            self.register(self._mask | EPOLLOUT)
        else:
            self._out += rest
        return 0

    cdef int press(self) except -1:
        """Ask the protocol to pause where too much waits."""
        if self._out is not None and <size_t>len(self._out) > self._high and not self._is_told:
            self._is_told = True
            self._protocol.pause_writing()
        return 0

    cdef int send_on(self) except -1:
        """The kernel takes more. Python runs."""
        cdef ssize_t sent
        sent = c_send(self._fd, <char*>self._out, len(self._out), MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent < 0:
            self.failed(errno)
            return 0
        if sent == len(self._out):
            self._out = None
            self.register(self._mask & ~<uint32_t>EPOLLOUT)
        else:
            del self._out[:sent]
        if self._is_told and (self._out is None or <size_t>len(self._out) <= self._low):
            self._is_told = False
            self._protocol.resume_writing()
        if self._out is None and not self._is_lost:
            if self._is_closing:
                self.lose(None)
            elif self._is_ended:
                self.socket().shutdown(_socket.SHUT_WR)
        return 0

    def writelines(self, list_of_data):
        """See asyncio.WriteTransport."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self):
        """See asyncio.WriteTransport."""
        return True

    def write_eof(self):
        """See asyncio.WriteTransport."""
        if self._is_closing or self._is_ended:
            return
        self.say_over()
        self._is_ended = True
        if self._out is None:
            try:
                self.socket().shutdown(_socket.SHUT_WR)
            except OSError as exc:
                self.force_close(exc)

    def get_write_buffer_size(self):
        """See asyncio.WriteTransport."""
        return 0 if self._out is None else len(self._out)

    def get_write_buffer_limits(self):
        """See asyncio.WriteTransport: low, high."""
        return self._low, self._high

    def set_write_buffer_limits(self, high=None, low=None):
        """See asyncio.WriteTransport."""
        if high is None:
            high = HIGH if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low
        self.press()

    # --- reading -----------------------------------------------------------------------------------------------------
    def is_reading(self):
        """See asyncio.ReadTransport."""
        return not (self._is_paused or self._is_closing)

    def pause_reading(self):
        """See asyncio.ReadTransport."""
        if not self._is_closing:
            self._is_paused = True
            self.register(self._mask & ~<uint32_t>EPOLLIN)

    def resume_reading(self):
        """See asyncio.ReadTransport."""
        if self._is_paused and not self._is_closing:
            self._is_paused = False
            self.register(self._mask | EPOLLIN)

    # --- the rest of asyncio.Transport -------------------------------------------------------------------------------
    def get_extra_info(self, name, default=None):
        """See asyncio.BaseTransport: socket, peername, sockname, ssl_object, sslcontext."""
        if name == "socket":
            return default if self._fd < 0 and self._sock is None else TransportSocket(self.socket())
        if name == "ssl_object":
            return default if self._session is None else self._session
        if name == "sslcontext":
            return default if self._session is None else self._session.context
        if name == "peername":
            return default if self._peer is None else self._peer
        if name == "sockname":
            try:
                return self.socket_name() or default
            except OSError:
                return default
        return default

    def set_protocol(self, protocol):
        """See asyncio.BaseTransport."""
        self._protocol = protocol
        self._is_buffered = isinstance(protocol, _BufferedProtocol)
        self._rider = None
        self._rides = False

    def get_protocol(self):
        """See asyncio.BaseTransport."""
        return self._protocol

    def is_closing(self):
        """See asyncio.BaseTransport."""
        return self._is_closing

    # --- the end -----------------------------------------------------------------------------------------------------
    def close(self):
        """See asyncio.BaseTransport: what was written still goes out."""
        if self._is_closing:
            return
        self.let_go()
        self.say_over()
        self._is_closing = True
        self.register(self._mask & ~<uint32_t>EPOLLIN)
        if self._out is None:
            self.lose(None)

    def abort(self):
        """See asyncio.WriteTransport."""
        self.force_close(None)

    def _force_close(self, exc):
        """What asyncio's TLS calls."""
        self.force_close(exc)

    cdef int force_close(self, exc) except -1:
        if self._is_lost or self._fd < 0:
            return 0
        self.let_go()
        self._out = None
        self.lose(exc)
        return 0

    cdef int abandon(self, exc) except -1:
        """As `force_close`, where the relay failed: nothing of it is asked any more."""
        if self._client is not None:
            self._client.destroy()
        if self._rider is not None:
            self._rider.destroy()
        self.force_close(exc)
        return 0

    cdef int lose(self, exc) except -1:
        if self._is_lost or self._fd < 0:
            return 0
        self._is_closing = self._is_lost = True
        self.register(0)
        self._pump._loop.call_soon(self.tell_lost, exc)
        return 0

    def tell_lost(self, exc):
        """Called from the loop, once."""
        if self._fd < 0:
            return
        try:
            self._protocol.connection_lost(exc)
        finally:
            self.bury()

    cdef int bury(self) except -1:
        """The socket is closed, by its one owner. An event of this round may still point to us."""
        if self._fd < 0:
            return 0
        self.register(0)
        fd, self._fd = self._fd, -1
        self._is_closing = self._is_lost = True
        self._out = None
        if self._rider is not None:
            self._rider.forget()
        if self._client is not None:
            self._client.forget()
        self._rider = self._client = None
        self._session = self._tls = self._tls_in = self._tls_out = self._tls_rest = None
        self._pump._graves.append(self)
        self._pump.remove(fd)
        if self._sock is None:
            c_close(fd)
        else:
            self._sock.close()
        self._protocol = None
        return 0
