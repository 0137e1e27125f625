// Package main shows libpoet from Go, with cgo and the standard library only.
package main

// #cgo pkg-config: poet
// #include <stdlib.h>
// #include <poet.h>
import "C"

import (
	"fmt"
	"runtime"
	"time"
	"unsafe"
)

// An Error is a status of the library with its text.
type Error struct {
	Status uint32
	Text   string
}

func (e *Error) Error() string { return e.Text }

// InvalidProof is the status of a proof that is not valid.
const InvalidProof = uint32(C.POET_STATUS_INVALID_PROOF)

// call calls the library, and reads the text of an error on the thread that made the call.
func call(f func() C.poet_status) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	status := f()
	if status == C.POET_STATUS_OK {
		return nil
	}
	var text [300]C.char
	C.poet_last_error(&text[0], C.size_t(len(text)))
	message := C.GoString(C.poet_status_message(C.uint32_t(status)))
	return &Error{uint32(status), message + ": " + C.GoString(&text[0])}
}

// pointer returns a pointer to the first byte, or nil if there is none.
func pointer(bytes []byte) *C.uint8_t {
	if len(bytes) == 0 {
		return nil
	}
	return (*C.uint8_t)(unsafe.Pointer(&bytes[0]))
}

// Work is the hash functions on their own.
type Work struct{ handle *C.poet_work }

// OpenWork opens SHA-256 with the depth of the network.
func OpenWork() (*Work, error) {
	w := &Work{}
	err := call(func() C.poet_status {
		return C.poet_work_open(C.POET_WORK_FUNCTION_SHA256, 0, nil, &w.handle)
	})
	return w, err
}

// Close frees it.
func (w *Work) Close() error {
	return call(func() C.poet_status { return C.poet_work_close(w.handle) })
}

// Label makes a label. There are 32 bytes in siblings for each set bit of index.
func (w *Work) Label(statement []byte, index uint64, siblings []byte) (label [32]byte, err error) {
	status := C.poet_work_label(w.handle, pointer(statement), C.size_t(len(statement)),
		C.uint64_t(index), pointer(siblings), C.size_t(len(siblings)/32), pointer(label[:]))
	if status != C.POET_STATUS_OK {
		err = &Error{uint32(status), C.GoString(C.poet_status_message(C.uint32_t(status)))}
	}
	return label, err
}

// Worker does the sequential work on a statement.
type Worker struct{ handle *C.poet_worker }

// OpenWorker opens one, with its log in directory or, if that is empty, in memory.
func OpenWorker(statement []byte, directory string) (*Worker, error) {
	// The options contain pointers, so what they point to must be in C memory.
	text := C.CBytes(statement)
	defer C.free(text)
	options := (*C.poet_worker_options)(C.calloc(1, C.sizeof_poet_worker_options))
	defer C.free(unsafe.Pointer(options))
	options.struct_size = C.sizeof_poet_worker_options
	options.statement = (*C.uint8_t)(text)
	options.statement_bytes = C.size_t(len(statement))
	if directory != "" {
		path := C.CString(directory)
		defer C.free(unsafe.Pointer(path))
		options.log_directory = path
	}
	w := &Worker{}
	err := call(func() C.poet_status { return C.poet_worker_open(options, &w.handle) })
	return w, err
}

// Advance works for some time. It returns whether Stop ended it.
func (w *Worker) Advance(limit time.Duration) (stopped bool, err error) {
	var why C.poet_advanced
	err = call(func() C.poet_status {
		return C.poet_worker_advance(w.handle, C.UINT64_MAX, C.uint64_t(limit.Microseconds()), &why)
	})
	return why == C.POET_ADVANCED_STOPPED, err
}

// Stop ends an Advance in another goroutine.
func (w *Worker) Stop() error {
	return call(func() C.poet_status { return C.poet_worker_stop(w.handle) })
}

// Leaves returns the number of leaves done, at any time.
func (w *Worker) Leaves() (leaves uint64, err error) {
	err = call(func() C.poet_status {
		return C.poet_worker_leaves(w.handle, (*C.uint64_t)(&leaves))
	})
	return leaves, err
}

// Prove makes the proof of all leaves done, in its encoded form.
func (w *Worker) Prove(threads uint32) ([]byte, error) {
	var proof *C.poet_proof
	if err := call(func() C.poet_status {
		return C.poet_worker_prove(w.handle, C.POET_T, C.uint32_t(threads), &proof)
	}); err != nil {
		return nil, err
	}
	defer C.poet_proof_close(proof)
	encoded := make([]byte, C.POET_MAX_PROOF_BYTES)
	var length C.size_t
	err := call(func() C.poet_status {
		return C.poet_proof_encode(proof, pointer(encoded), C.size_t(len(encoded)), &length)
	})
	return encoded[:length], err
}

// Close frees it.
func (w *Worker) Close() error {
	return call(func() C.poet_status { return C.poet_worker_close(w.handle) })
}

// Verify verifies a proof as the network does.
func Verify(statement []byte, leaves uint64, encoded []byte) error {
	return call(func() C.poet_status {
		return C.poet_verify(C.POET_WORK_FUNCTION_SHA256, 0,
			pointer(statement), C.size_t(len(statement)), C.uint64_t(leaves), C.POET_T,
			pointer(encoded), C.size_t(len(encoded)))
	})
}

// Version returns the library's version.
func Version() string { return fmt.Sprint("libpoet ", C.GoString(C.poet_version())) }
