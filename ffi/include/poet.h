/*
 * libpoet: the sequential-work engine for proofs of elapsed time (PoET).
 *
 * STATUS. Every function that can fail returns a poet_status. Where the text of a function lists the
 * codes that it returns, it leaves out their prefix POET_STATUS_. An output is written only if the
 * call returns OK. poet_last_error gives a sentence about what went wrong.
 *
 * HANDLES. poet_work, poet_worker and poet_proof are handles: a function makes one and writes it to its
 * last argument, the caller closes it with the close function of its type. A handle is no address. One
 * that was closed, is of another type, or was made up is detected (NOT_OPEN), also if it is used
 * during or after the close by another thread. It is never taken for a newer one. The detection is not
 * perfect between two copies of the library in one process: see ABI.md. After fork() a child must not
 * use handles.
 *
 * THREADS. "Any thread" means that calls may be made on any number of threads at once, with the same
 * handle too. Where a text says "one thread at a time", a second thread is told BUSY. The library
 * starts threads only where the text of a function says so, and they end before it returns.
 *
 * POINTERS. A pointer must not be NULL where the text does not allow it (NULL_POINTER), must be aligned
 * as its type is (INVALID_ARGUMENT), and must lead to as much memory as the text says: that cannot be
 * checked. Bytes behind it must not be changed by others during the call. The library keeps no pointer
 * after a call. An array without a length in its text has 32 bytes: labels, nodes, roots. Inputs are
 * const, outputs come last.
 *
 * SIZES. Where a struct carries its size, or a size stands beside it, a program that was built with an
 * older header runs with a newer library. See ABI.md for what may change.
 *
 * DEFECTS. A panic in the library does not leave it: the call returns PANIC, and every later call with
 * the handle POISONED, except for its close function. The library writes nothing to the terminal,
 * installs no signal handlers, and does not end the process, except when the system has no memory for
 * a small allocation.
 *
 * Generated from the sources by cbindgen: change those.
 */


#ifndef POET_H
#define POET_H

#include <stddef.h>
#include <stdint.h>

/**
 * The major version of the ABI that this header describes. A program runs with a library of the same
 * major version and the same or a later minor version.
 */
#define POET_ABI_MAJOR 1

/**
 * The minor version of the ABI that this header describes.
 */
#define POET_ABI_MINOR 1

/**
 * Bytes in a backend's name, with the NUL byte.
 */
#define POET_BACKEND_NAME_BYTES 32

/**
 * Bytes in the reason why a backend cannot be used, with the NUL byte.
 */
#define POET_BACKEND_REASON_BYTES 160

/**
 * The hash invocations for a label on the Spacemesh network.
 */
#define POET_LABEL_DEPTH 400

/**
 * The greatest depth, and the most steps of a chain in one call.
 */
#define POET_MAX_DEPTH (1 << 20)

/**
 * The longest statement.
 */
#define POET_MAX_STATEMENT_BYTES (1 << 24)

/**
 * The greatest subtree height.
 */
#define POET_MAX_SUBTREE_HEIGHT 24

/**
 * The proven leaves in a proof of the Spacemesh network, and the most that a proof may have.
 */
#define POET_T 150

/**
 * The most proof nodes that a proof may have.
 */
#define POET_MAX_PROOF_NODES 5400

/**
 * The most bytes that an encoded proof may have.
 */
#define POET_MAX_PROOF_BYTES 183196

/**
 * The most proofs that one call verifies.
 */
#define POET_MAX_CLAIMS (1 << 20)

/**
 * The most threads that a call may be asked to use.
 */
#define POET_MAX_THREADS 1024

/**
 * The most challenges that a membership root can be made of.
 */
#define POET_MAX_CHALLENGES (1 << 24)

/**
 * What a call came to. A number is never given another meaning; later versions add numbers.
 */
enum poet_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The call did what it says. In every other case it wrote no output, unless the function says so.
   */
  POET_STATUS_OK = 0,
  /**
   * A pointer is NULL that must not be.
   */
  POET_STATUS_NULL_POINTER = 1,
  /**
   * An argument is out of its range, a name is not UTF-8, or a pointer is not aligned.
   */
  POET_STATUS_INVALID_ARGUMENT = 2,
  /**
   * A length or a count is over its limit.
   */
  POET_STATUS_INVALID_LENGTH = 3,
  /**
   * The size in a struct (or beside an array of structs) is not one that this version knows, or
   * the part behind what it knows is not zero.
   */
  POET_STATUS_STRUCT_SIZE = 4,
  /**
   * The buffer of the caller is too small; nothing was written.
   */
  POET_STATUS_BUFFER_TOO_SMALL = 5,
  /**
   * The handle is not open: it was closed, or never came from this copy of the library.
   */
  POET_STATUS_NOT_OPEN = 6,
  /**
   * The handle is in use by another thread at this moment.
   */
  POET_STATUS_BUSY = 7,
  /**
   * A call with this handle failed by a defect of the library. It can only be closed.
   */
  POET_STATUS_POISONED = 8,
  /**
   * This call failed by a defect of the library (a caught panic).
   */
  POET_STATUS_PANIC = 9,
  /**
   * The backend is unknown, cannot run on this CPU, or failed its self-test.
   */
  POET_STATUS_BACKEND = 10,
  /**
   * Reading or writing a file failed.
   */
  POET_STATUS_IO = 11,
  /**
   * Another worker or process has the log open.
   */
  POET_STATUS_LOG_IN_USE = 12,
  /**
   * The log belongs to other work, or the file is no log. It was left as it is.
   */
  POET_STATUS_LOG_FOREIGN = 13,
  /**
   * The content of the log is wrong.
   */
  POET_STATUS_LOG_DAMAGED = 14,
  /**
   * There are fewer leaves than the call needs.
   */
  POET_STATUS_TOO_FEW_LEAVES = 15,
  /**
   * There are more leaves than a tree may have.
   */
  POET_STATUS_TOO_MANY_LEAVES = 16,
  /**
   * The bytes are not a proof.
   */
  POET_STATUS_MALFORMED_PROOF = 17,
  /**
   * The proof is not valid.
   */
  POET_STATUS_INVALID_PROOF = 18,
  /**
   * The system refused memory, or there are too many open handles.
   */
  POET_STATUS_OUT_OF_RESOURCES = 19,
  /**
   * The log cannot be written, and no more entries fit in memory.
   */
  POET_STATUS_BACKLOG_FULL = 20,
  /**
   * poet_worker_cancel was called.
   */
  POET_STATUS_CANCELLED = 21,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum poet_status poet_status;
#else
typedef uint32_t poet_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Why poet_worker_advance returned.
 */
enum poet_advanced
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * All the leaves that were asked for are done (or the tree has as many as it may have, 2^56).
   */
  POET_ADVANCED_LEAVES = 1,
  /**
   * The time was up.
   */
  POET_ADVANCED_TIME = 2,
  /**
   * poet_worker_stop was called.
   */
  POET_ADVANCED_STOPPED = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum poet_advanced poet_advanced;
#else
typedef uint32_t poet_advanced;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Which 32-byte function the sequential work iterates.
 */
enum poet_work_function
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * SHA-256, the function of the Spacemesh network.
   */
  POET_WORK_FUNCTION_SHA256 = 0,
  /**
   * Haraka-256 v2.
   */
  POET_WORK_FUNCTION_HARAKA256 = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum poet_work_function poet_work_function;
#else
typedef uint32_t poet_work_function;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A proof with its leaf count. It does not change: any number of threads may use one handle at
 * once.
 */
typedef struct poet_proof poet_proof;

/**
 * A work function of some depth on a backend: the hash functions, for a prover that keeps the tree
 * itself. It does not change: any number of threads may use one handle at once.
 */
typedef struct poet_work poet_work;

/**
 * The sequential work on a statement. A worker is for one thread at a time, except where a function
 * says that it may be called during others; a second thread is told BUSY.
 */
typedef struct poet_worker poet_worker;

/**
 * One way of computing a work function on this machine. All of them compute the same.
 */
typedef struct poet_backend {
  /**
   * The name that chooses it.
   */
  char name[POET_BACKEND_NAME_BYTES];
  /**
   * Why it cannot be used; empty if it can.
   */
  char excluded[POET_BACKEND_REASON_BYTES];
  /**
   * 1 if it can do the sequential work; 0 if it is for many chains at once only, that is for
   * proofs and verification.
   */
  uint32_t sequential;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Hashes a second in the sequential work; 0 if not measured.
   */
  double one_hashes_per_s;
  /**
   * Hashes a second with many chains at once; 0 if not measured.
   */
  double many_hashes_per_s;
} poet_backend;

/**
 * What a poet_work is.
 */
typedef struct poet_work_info {
  /**
   * A poet_work_function.
   */
  uint32_t work_function;
  /**
   * Hash invocations for a label.
   */
  uint32_t depth;
  /**
   * The backend for the sequential work.
   */
  char one_backend[POET_BACKEND_NAME_BYTES];
  /**
   * The backend for many chains at once.
   */
  char many_backend[POET_BACKEND_NAME_BYTES];
} poet_work_info;

/**
 * How to open a worker. Set everything to zero, then struct_size and what is wanted: zero is a
 * usable value in every place.
 */
typedef struct poet_worker_options {
  /**
   * sizeof(poet_worker_options).
   */
  size_t struct_size;
  /**
   * What the work is done for. It is not needed after the call. May be NULL if it is empty.
   */
  const uint8_t *statement;
  /**
   * Its length, at most POET_MAX_STATEMENT_BYTES.
   */
  size_t statement_bytes;
  /**
   * An existing directory for the log, as UTF-8. The log is the file tree.log in it; if it is there
   * already, the work goes on where it stands. NULL: the log is kept in memory only.
   */
  const char *log_directory;
  /**
   * The backend, as for poet_work_open.
   */
  const char *backend;
  /**
   * A poet_work_function.
   */
  uint32_t work_function;
  /**
   * Hash invocations for a label; 0 means POET_LABEL_DEPTH.
   */
  uint32_t depth;
  /**
   * The log keeps 32 bytes for each 2^subtree_height leaves, and a proof recomputes up to 150
   * times as many. Up to POET_MAX_SUBTREE_HEIGHT; 12 suits a round of two weeks, 0 one of minutes.
   */
  uint32_t subtree_height;
  /**
   * 0.
   */
  uint32_t reserved;
} poet_worker_options;

/**
 * How far a worker is.
 */
typedef struct poet_worker_progress {
  /**
   * Leaves done.
   */
  uint64_t leaves;
  /**
   * Leaves that would survive a power failure. Without a log directory 0.
   */
  uint64_t durable_leaves;
  /**
   * Hashes done and to do, approximately, of the proof that is or was last made; 0 before.
   */
  uint64_t prove_hashes_done;
  /**
   * See prove_hashes_done.
   */
  uint64_t prove_hashes_total;
  /**
   * Leaves that poet_worker_audit, if one runs or ran, has found right or put right. From here on
   * since version 1.1 of the ABI.
   */
  uint64_t audited_leaves;
  /**
   * Entries of the log that were put right since the worker was opened, or when it was: the disk or
   * memory had changed them.
   */
  uint64_t repaired_entries;
  /**
   * Leaves that were taken back since the worker was opened, or when it was, because their entries
   * were not what the work makes; they are made again.
   */
  uint64_t lost_leaves;
  /**
   * How often poet_worker_audit found that this machine computes wrongly: the work itself, or the
   * audit. The machine should be replaced.
   */
  uint64_t mistakes;
} poet_worker_progress;

/**
 * A proof, and what it is said to prove.
 */
typedef struct poet_claim {
  /**
   * The statement; may be NULL if it is empty.
   */
  const uint8_t *statement;
  /**
   * Its length, at most POET_MAX_STATEMENT_BYTES.
   */
  size_t statement_bytes;
  /**
   * The number of leaves.
   */
  uint64_t leaves;
  /**
   * The encoded proof.
   */
  const uint8_t *proof;
  /**
   * Its length, at most POET_MAX_PROOF_BYTES.
   */
  size_t proof_bytes;
} poet_claim;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the ABI that the library has: major in the upper, minor in the lower 16 bits.
 * Compare it with POET_ABI_MAJOR and POET_ABI_MINOR where the library is loaded at run time.
 *
 * Any thread, at any time.
 */
uint32_t poet_abi_version(void);

/**
 * The version of the engine, such as "0.1.0".
 *
 * The text belongs to the library and stays. Any thread, at any time.
 */
const char *poet_version(void);

/**
 * What a status means in general, in English; "unknown status" for a number that is none.
 * poet_last_error says what went wrong in particular.
 *
 * The text belongs to the library and stays. Any thread, at any time.
 */
const char *poet_status_message(uint32_t status);

/**
 * Copies the text of the last call that failed on the calling thread: one English sentence in
 * UTF-8, ended by a NUL byte, cut where the buffer ends. It is empty if no call has failed.
 * Successful calls and failures of this function leave the text as it is.
 *
 * buffer: receives the text; capacity: its size in bytes, at least 1.
 *
 * Returns OK, NULL_POINTER, BUFFER_TOO_SMALL (capacity is 0). Any thread. A runtime that moves its
 * tasks between threads must keep the task on its thread between the failed call and this one.
 */
poet_status poet_last_error(char *buffer, size_t capacity);

/**
 * Lists the backends for a work function, those that cannot be used among them. The order is that
 * of preference where nothing is measured. Each one is made to compute known answers.
 *
 * work_function: a poet_work_function.
 * measure: 0 or 1; 1 measures the rates, which takes some 50 ms and a thread of its own.
 * backends: room for capacity entries, or NULL with capacity 0 to ask for their number only.
 * backend_size: sizeof(poet_backend) of the caller, the distance from one entry to the next.
 * count: receives the number of backends.
 *
 * Returns OK, NULL_POINTER, INVALID_ARGUMENT, STRUCT_SIZE, BUFFER_TOO_SMALL, BACKEND, PANIC. Any
 * thread.
 */
poet_status poet_backend_list(uint32_t work_function,
                              uint32_t measure,
                              struct poet_backend *backends,
                              size_t backend_size,
                              size_t capacity,
                              size_t *count);

/**
 * Opens the hash functions.
 *
 * work_function: a poet_work_function.
 * depth: hash invocations for a label, up to POET_MAX_DEPTH; 0 means POET_LABEL_DEPTH.
 * backend: the name of one (see poet_backend_list); or "fastest" for a trial of some 50 ms, in a
 * thread of its own, that chooses; or NULL for the first in the order of preference, which is
 * within a few percent of the fastest. In the last two cases the environment variable POET_BACKEND
 * goes before. A backend for many chains only leaves the sequential work to another.
 * work: receives the handle; the caller closes it with poet_work_close.
 *
 * Returns OK, NULL_POINTER, INVALID_ARGUMENT, BACKEND, OUT_OF_RESOURCES, PANIC. Any thread.
 */
poet_status poet_work_open(uint32_t work_function,
                           uint32_t depth,
                           const char *backend,
                           struct poet_work **work);

/**
 * Closes a handle. Calls with it that other threads are in come to their end.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, PANIC. Any thread.
 */
poet_status poet_work_close(struct poet_work *work);

/**
 * Says what a poet_work is, above all which backends were chosen.
 *
 * info_size: sizeof(poet_work_info) of the caller. info: receives the answer.
 *
 * Returns OK, NULL_POINTER, STRUCT_SIZE, NOT_OPEN, POISONED, PANIC. Any thread.
 */
poet_status poet_work_describe(const struct poet_work *work,
                               struct poet_work_info *info,
                               size_t info_size);

/**
 * Makes a label: SHA-256 of statement, index (8 bytes, big-endian) and left siblings, and then the
 * chain, depth - 1 times. This is the sequential work; at depth 400 a call takes some 15 us.
 *
 * statement: statement_bytes bytes, at most POET_MAX_STATEMENT_BYTES; may be NULL if there are none.
 * index: the number of the leaf, below 2^56.
 * left_siblings: left_sibling_count * 32 bytes: the left siblings on the path from the leaf to the
 * root, lowest first; one for each bit that is set in index. May be NULL if there are none.
 * label: receives 32 bytes; may overlap with the inputs.
 *
 * Returns OK, NULL_POINTER, INVALID_ARGUMENT (the number of siblings does not fit the index),
 * INVALID_LENGTH, TOO_MANY_LEAVES, NOT_OPEN, POISONED, PANIC. Any thread.
 */
poet_status poet_work_label(const struct poet_work *work,
                            const uint8_t *statement,
                            size_t statement_bytes,
                            uint64_t index,
                            const uint8_t *left_siblings,
                            size_t left_sibling_count,
                            uint8_t *label);

/**
 * Makes an inner node of the tree: SHA-256 of statement, left and right child.
 *
 * statement: as for poet_work_label. left, right: 32 bytes each.
 * node: receives 32 bytes; may overlap with the inputs.
 *
 * Returns OK, NULL_POINTER, INVALID_LENGTH, NOT_OPEN, POISONED, PANIC. Any thread.
 */
poet_status poet_work_node(const struct poet_work *work,
                           const uint8_t *statement,
                           size_t statement_bytes,
                           const uint8_t *left,
                           const uint8_t *right,
                           uint8_t *node);

/**
 * Applies the work function to 32 bytes, again and again: the nested chain by itself. The depth of
 * the poet_work does not matter. A label is what depth - 1 steps make of its first digest.
 *
 * steps: at most POET_MAX_DEPTH; 0 copies the input.
 * input: 32 bytes. output: receives 32 bytes; may be the input.
 *
 * Returns OK, NULL_POINTER, INVALID_LENGTH (too many steps), NOT_OPEN, POISONED, PANIC. Any thread.
 */
poet_status poet_work_chain(const struct poet_work *work,
                            uint32_t steps,
                            const uint8_t *input,
                            uint8_t *output);

/**
 * Opens a worker. If the log directory has a log of the same work, statement and subtree height, the
 * worker goes on where it stands: at most 2^subtree_height - 1 leaves, and what a failure of the
 * power lost, are done again. No other worker and no other process can open that log meanwhile.
 *
 * The last entry of the log is made once more, which takes as long as 2^subtree_height leaves and shows
 * whether the disk has changed the log. Some changed entries are put right, zeros at the end and what
 * cannot be put right are cut off: repaired_entries and lost_leaves of poet_worker_progress say so.
 * What the work itself got wrong is not found: for that there is poet_worker_audit.
 *
 * options: not needed after the call, nor is what it points to.
 * worker: receives the handle; the caller closes it with poet_worker_close.
 *
 * Returns OK, NULL_POINTER, INVALID_ARGUMENT, INVALID_LENGTH, STRUCT_SIZE, BACKEND, IO, LOG_IN_USE,
 * LOG_FOREIGN, TOO_MANY_LEAVES (the log is too long), OUT_OF_RESOURCES, PANIC. Any thread.
 */
poet_status poet_worker_open(const struct poet_worker_options *options,
                             struct poet_worker **worker);

/**
 * Closes a worker. Everything is in the log, durable as far as poet_worker_sync made it, unless
 * poet_worker_advance says that the log cannot be written; then it is tried once more, and what is
 * missing is made again by the next worker.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, BUSY (another thread works with it: stop that first), PANIC.
 * Any thread.
 */
poet_status poet_worker_close(struct poet_worker *worker);

/**
 * Does the sequential work: adds leaves until there are so many more, or the time is up, or another
 * thread calls poet_worker_stop, whichever comes first. The calling thread does nothing but hash, and
 * append to the log about every 50 ms and at the end. It returns at most one leaf late, or, after a
 * stop, about a millisecond. To bind the thread to a core is up to the caller.
 *
 * leaves: how many to add at most; UINT64_MAX for no limit.
 * time_us: how long to go on, in microseconds; UINT64_MAX for no limit.
 * advanced: receives why it returned, a poet_advanced. If several reasons meet, a stop goes before
 * leaves, and leaves before time.
 *
 * When the log cannot be written, because the disk is full, say, the work goes on all the same: the
 * leaves were added, advanced is written, and the call returns IO. The entries wait in memory, and every
 * call tries to write them, also one with leaves 0. When 2^18 entries wait (8 MiB: hours at
 * subtree_height 12, seconds at 0), the call returns BACKLOG_FULL and adds no leaf that would need
 * another one: wait a second before the next call. Nothing is lost as long as the worker is open.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, BUSY, POISONED, IO, BACKLOG_FULL, OUT_OF_RESOURCES, PANIC. After
 * OUT_OF_RESOURCES the leaves that were added stay. One thread at a time.
 */
poet_status poet_worker_advance(struct poet_worker *worker,
                                uint64_t leaves,
                                uint64_t time_us,
                                poet_advanced *advanced);

/**
 * Makes the poet_worker_advance that another thread is in return; if none is, the next one returns at
 * once. So it does not matter which of the two calls comes first.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread, also during other calls.
 */
poet_status poet_worker_stop(struct poet_worker *worker);

/**
 * Makes the poet_worker_prove or poet_worker_audit that another thread is in return CANCELLED, within
 * about a millisecond of hashing, or a pass over the log; if none is, the next one returns it. So it does
 * not matter which of the two calls comes first. Since version 1.1 of the ABI.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread, also during other calls.
 */
poet_status poet_worker_cancel(struct poet_worker *worker);

/**
 * Says what a poet_worker computes with, above all which backends were chosen. Since version 1.1 of the
 * ABI.
 *
 * info_size: sizeof(poet_work_info) of the caller. info: receives the answer.
 *
 * Returns OK, NULL_POINTER, STRUCT_SIZE, NOT_OPEN, POISONED, PANIC. Any thread, also during other calls.
 */
poet_status poet_worker_describe(const struct poet_worker *worker,
                                 struct poet_work_info *info,
                                 size_t info_size);

/**
 * Tells how far a worker is.
 *
 * progress: receives the answer. progress_size: sizeof(poet_worker_progress) of the caller.
 *
 * Returns OK, NULL_POINTER, STRUCT_SIZE, NOT_OPEN, POISONED, PANIC. Any thread, also during other
 * calls.
 */
poet_status poet_worker_read_progress(const struct poet_worker *worker,
                                      struct poet_worker_progress *progress,
                                      size_t progress_size);

/**
 * The number of leaves done.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread, also during other calls.
 */
poet_status poet_worker_leaves(const struct poet_worker *worker, uint64_t *leaves);

/**
 * Makes what is in the log file durable. After it has returned OK, everything that was appended
 * before it was called survives a power failure: up to 50 ms of a poet_worker_advance that is running
 * are not among that. Without a log directory it does nothing. Where nobody calls it,
 * poet_worker_advance does the same after every 2^17 entries.
 *
 * IO: the system could not, and may have lost what was written since the last success. That counts as
 * unwritten then, durable_leaves does not rise, and this call returns IO until poet_worker_advance, which
 * keeps it in memory, has written it again.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, POISONED, IO, PANIC. Any thread, also during other calls; it may
 * take long, so a thread of its own is the place for it.
 */
poet_status poet_worker_sync(const struct poet_worker *worker);

/**
 * The root of the tree as it is.
 *
 * root: receives 32 bytes.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, BUSY, POISONED, TOO_FEW_LEAVES (there are none), PANIC. One
 * thread at a time.
 */
poet_status poet_worker_root(const struct poet_worker *worker, uint8_t *root);

/**
 * Makes the proof of all leaves done. The worker can go on afterwards.
 *
 * t: how many leaves to prove, 1 to POET_T, on the Spacemesh network POET_T.
 * threads: how many threads share the work, 1 to POET_MAX_THREADS, the calling one among them; the
 * others end before the call returns.
 * proof: receives the handle; the caller closes it with poet_proof_close. It does not depend on the
 * worker any more.
 *
 * It recomputes up to t subtrees of 2^subtree_height leaves and one pass over the log: see GUIDE.md for
 * how long that takes. poet_worker_cancel stops it. It does not need the disk to take what is missing in
 * the log.
 *
 * Returns OK, NULL_POINTER, INVALID_ARGUMENT, NOT_OPEN, BUSY, POISONED, TOO_FEW_LEAVES (fewer than t),
 * IO, LOG_DAMAGED (poet_worker_audit can put it right), CANCELLED, OUT_OF_RESOURCES, PANIC. One thread at
 * a time.
 */
poet_status poet_worker_prove(struct poet_worker *worker,
                              uint32_t t,
                              uint32_t threads,
                              struct poet_proof **proof);

/**
 * Recomputes everything that the log says, and puts it right. An entry that has changed in memory or on
 * the disk is replaced. If the work itself went wrong, which a faulty CPU or memory can do, it is taken
 * back to its last right entry: the worker has fewer leaves then, and goes on from there. In the fields
 * of poet_worker_progress after prove_hashes_total stands what was found. After a proof that fails with
 * LOG_DAMAGED, this and another poet_worker_prove make one.
 *
 * It takes about half as long as the work itself took, divided by the number of threads; audited_leaves
 * says how far it is, and poet_worker_cancel stops it, what was put right by then included. Since version
 * 1.1 of the ABI.
 *
 * threads: how many threads share the work, 1 to POET_MAX_THREADS, the calling one among them; the
 * others end before the call returns.
 *
 * Returns OK (whatever was found), NULL_POINTER, INVALID_ARGUMENT, NOT_OPEN, BUSY, POISONED, IO, CANCELLED,
 * PANIC. One thread at a time.
 */
poet_status poet_worker_audit(struct poet_worker *worker,
                              uint32_t threads);

/**
 * Reads a proof from the bytes by whose hash an ATX refers to it: SCALE of root, proven leaves,
 * proof nodes and leaf count. (What nodes store and gossip is a longer message, which begins with
 * these bytes.) Whether the proof is valid is another question: poet_verify.
 *
 * bytes: length bytes, which are not needed after the call.
 * proof: receives the handle; the caller closes it with poet_proof_close.
 *
 * Returns OK, NULL_POINTER, INVALID_LENGTH (over POET_MAX_PROOF_BYTES), MALFORMED_PROOF,
 * OUT_OF_RESOURCES, PANIC. Any thread.
 */
poet_status poet_proof_decode(const uint8_t *bytes, size_t length, struct poet_proof **proof);

/**
 * Makes a proof of its parts. Whether it is valid is another question: poet_verify.
 *
 * root: 32 bytes.
 * proven_leaves: proven_leaf_count * 32 bytes, in increasing order of their index; at most POET_T.
 * proof_nodes: proof_node_count * 32 bytes; at most POET_MAX_PROOF_NODES.
 * leaves: the leaf count.
 * proof: receives the handle; the caller closes it with poet_proof_close.
 *
 * Returns OK, NULL_POINTER, INVALID_LENGTH, OUT_OF_RESOURCES, PANIC. Any thread.
 */
poet_status poet_proof_assemble(const uint8_t *root,
                                const uint8_t *proven_leaves,
                                size_t proven_leaf_count,
                                const uint8_t *proof_nodes,
                                size_t proof_node_count,
                                uint64_t leaves,
                                struct poet_proof **proof);

/**
 * Closes a handle. Calls with it that other threads are in come to their end.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, PANIC. Any thread.
 */
poet_status poet_proof_close(struct poet_proof *proof);

/**
 * Writes the proof in the bytes that poet_proof_decode reads: SCALE of root, proven leaves, proof nodes
 * and leaf count. They are what poet_proof_reference hashes, and not all that a node stores: that has the
 * service's id, the round's id, the statement and a signature around them.
 *
 * bytes: room for capacity bytes (POET_MAX_PROOF_BYTES always suffice), or NULL with capacity 0 to
 * ask for the length only. length: receives the number of bytes.
 *
 * Returns OK, NULL_POINTER, BUFFER_TOO_SMALL, NOT_OPEN, POISONED, PANIC. Any thread.
 */
poet_status poet_proof_encode(const struct poet_proof *proof,
                              uint8_t *bytes,
                              size_t capacity,
                              size_t *length);

/**
 * The reference by which an ATX names the proof: BLAKE3 of its encoded bytes.
 *
 * reference: receives 32 bytes.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread.
 */
poet_status poet_proof_reference(const struct poet_proof *proof, uint8_t *reference);

/**
 * The leaf count of the proof.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread.
 */
poet_status poet_proof_leaves(const struct poet_proof *proof, uint64_t *leaves);

/**
 * The root of the proof.
 *
 * root: receives 32 bytes.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread.
 */
poet_status poet_proof_root(const struct poet_proof *proof, uint8_t *root);

/**
 * The labels of the proven leaves, in increasing order of their index.
 *
 * labels: room for capacity * 32 bytes, or NULL with capacity 0 to ask for their number only.
 * count: receives the number of labels, at most POET_T.
 *
 * Returns OK, NULL_POINTER, BUFFER_TOO_SMALL, NOT_OPEN, POISONED, PANIC. Any thread.
 */
poet_status poet_proof_proven_leaves(const struct poet_proof *proof,
                                     uint8_t *labels,
                                     size_t capacity,
                                     size_t *count);

/**
 * The nodes that lead from the proven leaves to the root, in the order of the proof.
 *
 * nodes: room for capacity * 32 bytes, or NULL with capacity 0 to ask for their number only.
 * count: receives the number of nodes, at most POET_MAX_PROOF_NODES.
 *
 * Returns OK, NULL_POINTER, BUFFER_TOO_SMALL, NOT_OPEN, POISONED, PANIC. Any thread.
 */
poet_status poet_proof_nodes(const struct poet_proof *proof,
                             uint8_t *nodes,
                             size_t capacity,
                             size_t *count);

/**
 * Verifies that an encoded proof shows so many leaves of work on a statement. On the Spacemesh
 * network (depth 400, T = 150) it takes about a millisecond.
 *
 * work_function: a poet_work_function. depth: as for poet_work_open.
 * statement: statement_bytes bytes; may be NULL if there are none.
 * leaves: the number of leaves; the one in the proof must be the same.
 * t: how many leaves must be proven, 1 to POET_T, on the network POET_T.
 * proof: proof_bytes bytes, as poet_proof_encode writes them.
 *
 * Returns OK (valid), INVALID_PROOF, MALFORMED_PROOF, TOO_FEW_LEAVES (fewer than t), NULL_POINTER,
 * INVALID_ARGUMENT, INVALID_LENGTH, BACKEND, PANIC. Any thread.
 */
poet_status poet_verify(uint32_t work_function,
                        uint32_t depth,
                        const uint8_t *statement,
                        size_t statement_bytes,
                        uint64_t leaves,
                        uint32_t t,
                        const uint8_t *proof,
                        size_t proof_bytes);

/**
 * Verifies several proofs, as poet_verify does.
 *
 * work_function, depth, t: as for poet_verify, for all of them.
 * claims: count entries; count: at most POET_MAX_CLAIMS.
 * claim_size: sizeof(poet_claim) of the caller, the distance from one entry to the next.
 * threads: how many threads share the work, 1 to POET_MAX_THREADS, the calling one among them; the
 * others end before the call returns.
 * results: room for count entries; receives what poet_verify would return for each claim.
 *
 * Returns OK (all were looked at; they need not be valid), NULL_POINTER, INVALID_ARGUMENT,
 * INVALID_LENGTH, STRUCT_SIZE, BACKEND, PANIC. Any thread.
 */
poet_status poet_verify_many(uint32_t work_function,
                             uint32_t depth,
                             uint32_t t,
                             const struct poet_claim *claims,
                             size_t claim_size,
                             size_t count,
                             uint32_t threads,
                             poet_status *results);

/**
 * The root of the membership tree, which is the statement of a round: BLAKE3 over the challenges
 * in increasing byte order of their node ids. Without members it is empty, with one member it is
 * the challenge itself.
 *
 * challenges: count * 32 bytes, in order; count: at most POET_MAX_CHALLENGES.
 * root: room for 32 bytes. root_bytes: receives how many were written, 0 or 32.
 *
 * Returns OK, NULL_POINTER, INVALID_LENGTH, PANIC. Any thread.
 */
poet_status poet_membership_root(const uint8_t *challenges,
                                 size_t count,
                                 uint8_t *root,
                                 size_t *root_bytes);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* POET_H */
