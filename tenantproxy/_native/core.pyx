# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Which bytes need no Python? Sockets on the loop's own epoll, and the straight case of a client between two of its turns.

`Pump` is the one epoll of an event loop, `Conn` a connection on it, with the interface of an asyncio transport. A `Rider`
is a client whose straight transactions are carried from socket to socket here: one whole Query, or Parse? Bind Describe
Execute Sync, answered by nothing that has to be looked at. Whatever is anything else is handed over to the Python relay,
which is the reference, as if it had done all of it itself.

Backends lie parked in the `Lane` of their tenant between two such transactions, for as long as no Python runs: before it
does they are given back. So nothing that is written in Python ever meets one.
"""

from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

import asyncio
import os
import socket as _socket
import ssl
from asyncio.trsock import TransportSocket

include "system.pxi"
include "texts.pxi"
include "answers.pxi"

cdef class Pump
cdef class Conn
cdef class Rider
cdef class Lane

include "pump.pxi"
include "conn.pxi"
include "lane.pxi"
include "rider.pxi"
