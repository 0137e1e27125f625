"""A round in Python, with nothing but ctypes: round.py [LIBRARY]."""

import ctypes
import hashlib
import sys
import threading
import time
from ctypes import POINTER, byref, c_char_p, c_size_t, c_uint32, c_uint64, c_void_p

OK, NOT_OPEN, INVALID_PROOF = 0, 6, 18
STOPPED = 3
T, DEPTH = 150, 400
NO_LIMIT = 2**64 - 1


class WorkerOptions(ctypes.Structure):
    """poet_worker_options"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("statement", c_char_p),
        ("statement_bytes", c_size_t),
        ("log_directory", c_char_p),
        ("backend", c_char_p),
        ("work_function", c_uint32),
        ("depth", c_uint32),
        ("subtree_height", c_uint32),
        ("reserved", c_uint32),
    ]


def load(name):
    library = ctypes.CDLL(name)
    version = library.poet_abi_version
    version.restype = c_uint32
    if version() >> 16 != 1:
        raise RuntimeError(f"{name} has major version {version() >> 16} of the ABI, not 1")
    library.poet_status_message.restype = c_char_p
    library.poet_last_error.argtypes = [c_char_p, c_size_t]

    def declare(function, *arguments):
        function.restype = c_uint32
        function.argtypes = arguments

    node = c_char_p
    declare(library.poet_work_open, c_uint32, c_uint32, c_char_p, POINTER(c_void_p))
    declare(library.poet_work_close, c_void_p)
    declare(
        library.poet_work_label,
        *(c_void_p, c_char_p, c_size_t, c_uint64, c_char_p, c_size_t, node),
    )
    declare(library.poet_worker_open, POINTER(WorkerOptions), POINTER(c_void_p))
    declare(library.poet_worker_advance, c_void_p, c_uint64, c_uint64, POINTER(c_uint32))
    declare(library.poet_worker_leaves, c_void_p, POINTER(c_uint64))
    declare(library.poet_worker_stop, c_void_p)
    declare(library.poet_worker_prove, c_void_p, c_uint32, c_uint32, POINTER(c_void_p))
    declare(library.poet_worker_close, c_void_p)
    declare(library.poet_proof_encode, c_void_p, c_char_p, c_size_t, POINTER(c_size_t))
    declare(library.poet_proof_close, c_void_p)
    declare(
        library.poet_verify,
        *(c_uint32, c_uint32, c_char_p, c_size_t, c_uint64, c_uint32, c_char_p, c_size_t),
    )
    return library


def main():
    poet = load(sys.argv[1] if len(sys.argv) > 1 else "libpoet.so.1")

    def check(status):
        if status != OK:
            text = ctypes.create_string_buffer(300)
            poet.poet_last_error(text, len(text))
            message = poet.poet_status_message(status).decode()
            raise RuntimeError(f"{message}: {text.value.decode()}")

    statement = b"a round in Python"

    # A label, compared with hashlib's.
    work, label = c_void_p(), ctypes.create_string_buffer(32)
    check(poet.poet_work_open(0, DEPTH, None, byref(work)))
    check(poet.poet_work_label(work, statement, len(statement), 0, None, 0, label))
    expected = statement + bytes(8)
    for _ in range(DEPTH):
        expected = hashlib.sha256(expected).digest()
    assert label.raw == expected
    check(poet.poet_work_close(work))

    options = WorkerOptions(statement=statement, statement_bytes=len(statement))
    options.struct_size = ctypes.sizeof(options)
    worker = c_void_p()
    check(poet.poet_worker_open(byref(options), byref(worker)))

    # ctypes lets other threads of Python run during a call.
    advanced, outcome = c_uint32(), []

    def advance():
        outcome.append(poet.poet_worker_advance(worker, NO_LIMIT, NO_LIMIT, byref(advanced)))

    thread = threading.Thread(target=advance)
    thread.start()
    leaves = c_uint64()
    while leaves.value < 5000 and not outcome:
        time.sleep(0.05)
        check(poet.poet_worker_leaves(worker, byref(leaves)))
        print(f"{leaves.value} leaves")
    check(poet.poet_worker_stop(worker))
    thread.join()
    check(outcome[0])
    assert advanced.value == STOPPED
    check(poet.poet_worker_leaves(worker, byref(leaves)))

    proof, length = c_void_p(), c_size_t()
    check(poet.poet_worker_prove(worker, T, 1, byref(proof)))
    check(poet.poet_worker_close(worker))
    assert poet.poet_worker_stop(worker) == NOT_OPEN
    check(poet.poet_proof_encode(proof, None, 0, byref(length)))
    encoded = ctypes.create_string_buffer(length.value)
    check(poet.poet_proof_encode(proof, encoded, len(encoded), byref(length)))
    check(poet.poet_proof_close(proof))

    def verify(claimed):
        arguments = (statement, len(statement), claimed, T, encoded, len(encoded))
        return poet.poet_verify(0, DEPTH, *arguments)

    check(verify(leaves.value))
    assert verify(leaves.value + 1) == INVALID_PROOF
    print(f"a valid proof of {leaves.value} leaves, {len(encoded)} bytes")


main()
