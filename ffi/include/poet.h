/*
 * libpoet: the sequential-work engine for proofs of elapsed time (PoET).
 *
 * STATUS. Every function that can fail returns a poet_status. The text of a function lists the codes
 * that it returns without their prefix POET_STATUS_, except INVALID_ARGUMENT for a pointer that is not
 * aligned. GUIDE.md says what to do with each. An output is written only if the call returns OK, or if
 * the text says so. poet_last_error gives a sentence about what went wrong.
 *
 * HANDLES. poet_work, poet_worker and poet_proof are handles: a function makes one and writes it to
 * its last argument, and the caller must close it with the close function of its type. A handle is
 * not an address. One that was closed, is of another type, or was made up is detected (NOT_OPEN),
 * even if another thread uses it during or after the close. It is never mistaken for a newer one.
 * The detection is not perfect between two copies of the library in one process: see ABI.md. After
 * fork() a child must not use handles.
 *
 * THREADS. "Any thread" means that calls may be made on any number of threads at once, with the same
 * handle too. Where a text says "one thread at a time", a second thread gets BUSY. The library
 * starts threads only where the text of a function says so, and they end before it returns.
 *
 * POINTERS. A pointer must not be NULL unless the text allows it (NULL_POINTER), must be aligned for
 * its type (INVALID_ARGUMENT), and must point to as much memory as the text says, which cannot be
 * checked. No other thread may change that memory during the call. The library keeps no pointer
 * after a call. An array without a length in its text has 32 bytes: labels, nodes, roots. Inputs are
 * const, outputs come last.
 *
 * SIZES. Where a struct carries its size, or a size stands next to it, a program built with an older
 * header runs with a newer library. See ABI.md for what may change.
 *
 * DEFECTS. A panic in the library does not leave it: the call returns PANIC, and every later call with
 * the handle POISONED, except for its close function. The library writes nothing to the terminal,
 * installs no signal handlers, and does not end the process, except when the system has no memory for
 * a small allocation.
 *
 * Generated from the sources by cbindgen: change those instead.
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
 * The size of a backend's name in bytes, including the NUL byte.
 */
#define POET_BACKEND_NAME_BYTES 32

/**
 * The size of the reason why a backend cannot be used, including the NUL byte.
 */
#define POET_BACKEND_REASON_BYTES 160

/**
 * The number of hash invocations for a label on the Spacemesh network.
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
 * The most bytes in an encoded proof.
 */
#define POET_MAX_PROOF_BYTES 183196

/**
 * The most proofs that one call verifies.
 */
#define POET_MAX_CLAIMS (1 << 20)

/**
 * The most threads that a call may use.
 */
#define POET_MAX_THREADS 1024

/**
 * The most challenges in a membership root.
 */
#define POET_MAX_CHALLENGES (1 << 24)

/**
 * The result of a call. A number never changes its meaning; later versions add numbers.
 */
enum poet_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The call succeeded. In every other case it wrote no output, unless the function says so.
   */
  POET_STATUS_OK = 0,
  /**
   * A pointer is NULL but must not be.
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
   * The size in a struct (or next to an array of structs) is not one that this version knows, or
   * the part after what it knows is not zero.
   */
  POET_STATUS_STRUCT_SIZE = 4,
  /**
   * The caller's buffer is too small; nothing was written.
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
   * A call with this handle failed because of a defect in the library. It can only be closed.
   */
  POET_STATUS_POISONED = 8,
  /**
   * This call failed because of a defect in the library (a caught panic).
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
   * The log belongs to other work, or the file is not a log. It is unchanged.
   */
  POET_STATUS_LOG_FOREIGN = 13,
  /**
   * The log contains wrong entries.
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
   * All requested leaves are done (or the tree has as many as it may have, 2^56).
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
 * A proof with its leaf count. It is immutable: any number of threads may use one handle at once.
 */
typedef struct poet_proof poet_proof;

/**
 * A work function of some depth on a backend: the hash functions, for a prover that keeps the tree
 * itself. It is immutable: any number of threads may use one handle at once.
 */
typedef struct poet_work poet_work;

/**
 * The sequential work on a statement. Only one thread at a time may use a worker, except for
 * functions that may be called during others; a second thread gets BUSY.
 */
typedef struct poet_worker poet_worker;

/**
 * One implementation of a work function on this machine. All of them compute the same.
 */
typedef struct poet_backend {
  /**
   * The name that selects it.
   */
  char name[POET_BACKEND_NAME_BYTES];
  /**
   * Why it cannot be used; empty if it can.
   */
  char excluded[POET_BACKEND_REASON_BYTES];
  /**
   * 1 if it can do the sequential work; 0 if it is only for many chains at once, that is for
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
 * Describes a poet_work.
 */
typedef struct poet_work_info {
  /**
   * A poet_work_function.
   */
  uint32_t work_function;
  /**
   * The number of hash invocations for a label.
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
 * How to open a worker. Set everything to zero, then struct_size and the fields you need: zero is
 * a valid value for every field.
 */
typedef struct poet_worker_options {
  /**
   * sizeof(poet_worker_options).
   */
  size_t struct_size;
  /**
   * What the work is bound to. Not used after the call. May be NULL if it is empty.
   */
  const uint8_t *statement;
  /**
   * Its length, at most POET_MAX_STATEMENT_BYTES.
   */
  size_t statement_bytes;
  /**
   * An existing directory for the log, as UTF-8. The log is the file tree.log in it; if the file
   * exists, the work goes on from its end. NULL: the log is kept in memory only.
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
   * The number of hash invocations for a label; 0 means POET_LABEL_DEPTH.
   */
  uint32_t depth;
  /**
   * The log keeps 32 bytes for each 2^subtree_height leaves, and a proof recomputes up to 150
   * times as many. Up to POET_MAX_SUBTREE_HEIGHT; 12 suits a round of two weeks, 0 one of minutes.
   */
  uint32_t subtree_height;
  /**
   * Must be 0.
   */
  uint32_t reserved;
} poet_worker_options;

/**
 * The progress of a worker.
 */
typedef struct poet_worker_progress {
  /**
   * The number of leaves done.
   */
  uint64_t leaves;
  /**
   * The number of leaves that would survive a power failure; 0 without a log directory.
   */
  uint64_t durable_leaves;
  /**
   * Hashes done and to do, approximately, of the current or last proof; 0 before the first.
   */
  uint64_t prove_hashes_done;
  /**
   * See prove_hashes_done.
   */
  uint64_t prove_hashes_total;
  /**
   * Leaves that the current or last poet_worker_audit has found right or repaired. This field
   * and the following exist since version 1.1 of the ABI.
   */
  uint64_t audited_leaves;
  /**
   * Entries of the log that the disk or memory had changed, and that were repaired when the
   * worker was opened or later.
   */
  uint64_t repaired_entries;
  /**
   * Leaves that were taken back when the worker was opened or later, because their entries were
   * not what the work makes; they are made again.
   */
  uint64_t lost_leaves;
  /**
   * How often poet_worker_audit found that this machine computes wrongly: the work itself, or
   * the audit. The machine should be replaced.
   */
  uint64_t mistakes;
} poet_worker_progress;

/**
 * A proof, and what it claims to prove.
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
 * Returns the version of the ABI that the library implements: major in the upper, minor in the
 * lower 16 bits. Compare it with POET_ABI_MAJOR and POET_ABI_MINOR if the library is loaded at run
 * time.
 *
 * Any thread, at any time.
 */
uint32_t poet_abi_version(void);

/**
 * Returns the version of the engine, such as "0.1.0".
 *
 * The text belongs to the library and stays valid. Any thread, at any time.
 */
const char *poet_version(void);

/**
 * Returns the general meaning of a status, in English; "unknown status" for any other number.
 * poet_last_error gives the specific reason.
 *
 * The text belongs to the library and stays valid. Any thread, at any time.
 */
const char *poet_status_message(uint32_t status);

/**
 * Copies the error text of the last failed call on the calling thread: one English sentence in
 * UTF-8, ended by a NUL byte, truncated to the buffer. It is empty if no call has failed.
 * Successful calls and failures of this function leave the text unchanged.
 *
 * buffer: receives the text; capacity: its size in bytes, at least 1.
 *
 * Returns OK, NULL_POINTER, BUFFER_TOO_SMALL (capacity is 0). Any thread. A runtime that moves its
 * tasks between threads must keep the task on its thread between the failed call and this one.
 */
poet_status poet_last_error(char *buffer, size_t capacity);

/**
 * Lists the backends for a work function, including those that cannot be used. The order is that
 * of preference if nothing is measured. Each one must pass a self-test with known answers.
 *
 * work_function: a poet_work_function.
 * measure: 0 or 1; 1 measures the rates, which takes some 50 ms and runs on its own thread.
 * backends: room for capacity entries, or NULL with capacity 0 to get only their number.
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
 * backend: the name of one (see poet_backend_list); or "fastest" for the winner of a trial of some
 * 50 ms, which runs on its own thread; or NULL for the first in the order of preference, which is
 * within a few percent of the fastest. In the last two cases the environment variable POET_BACKEND
 * takes precedence. A backend for many chains only leaves the sequential work to another.
 * work: receives the handle; the caller must close it with poet_work_close.
 *
 * Returns OK, NULL_POINTER, INVALID_ARGUMENT, BACKEND, OUT_OF_RESOURCES, PANIC. Any thread.
 */
poet_status poet_work_open(uint32_t work_function,
                           uint32_t depth,
                           const char *backend,
                           struct poet_work **work);

/**
 * Closes a handle. Calls that use it on other threads run to their end.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, PANIC. Any thread.
 */
poet_status poet_work_close(struct poet_work *work);

/**
 * Describes a poet_work, above all which backends it uses.
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
 * Applies the work function repeatedly to 32 bytes: the nested chain on its own. The depth of the
 * poet_work is ignored. A label is the result of depth - 1 steps from its first digest.
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
 * Opens a worker. If the log directory has a log of the same work, statement and subtree height,
 * the worker goes on from its end: at most 2^subtree_height - 1 leaves, and those that a power
 * failure lost, are made again. No other worker and no other process can open that log meanwhile.
 *
 * Recomputes the last entry of the log, which takes as long as 2^subtree_height leaves and shows
 * whether the disk has changed the log. Repairs some changed entries; cuts off zeros at the end
 * and what cannot be repaired. repaired_entries and lost_leaves of poet_worker_progress count
 * them. Does not find errors of the work itself; poet_worker_audit does.
 *
 * options: not used after the call, nor is what it points to.
 * worker: receives the handle; the caller must close it with poet_worker_close.
 *
 * Returns OK, NULL_POINTER, INVALID_ARGUMENT, INVALID_LENGTH, STRUCT_SIZE, BACKEND, IO, LOG_IN_USE,
 * LOG_FOREIGN, TOO_MANY_LEAVES (the log is too long), OUT_OF_RESOURCES, PANIC. Any thread.
 */
poet_status poet_worker_open(const struct poet_worker_options *options,
                             struct poet_worker **worker);

/**
 * Closes a worker. Everything is in the log, durable as far as poet_worker_sync made it, unless
 * poet_worker_advance has reported that the log cannot be written; then closing tries once more,
 * and the next worker makes the missing leaves again.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, BUSY (another thread is using it: stop that first), PANIC.
 * Any thread.
 */
poet_status poet_worker_close(struct poet_worker *worker);

/**
 * Does the sequential work: adds leaves until the given number is reached, the time is up, or
 * another thread calls poet_worker_stop, whichever comes first. The calling thread only hashes,
 * and appends to the log about every 50 ms and at the end. It returns at most one leaf late, or,
 * after a stop, about a millisecond. The caller may bind the thread to a core.
 *
 * leaves: how many to add at most; UINT64_MAX for no limit.
 * time_us: how long to work, in microseconds; UINT64_MAX for no limit.
 * advanced: receives why it returned, a poet_advanced. If several reasons apply, a stop takes precedence
 * over leaves, and leaves over time.
 *
 * If the log cannot be written, for example because the disk is full, the work goes on: the leaves
 * are added, advanced is written, and the call returns IO. The entries wait in memory, and every
 * call tries to write them, even one with leaves 0. When 2^18 entries wait (8 MiB: hours at
 * subtree_height 12, seconds at 0), the call returns BACKLOG_FULL and adds no leaf that would
 * complete another one: wait a second before the next call. Nothing is lost as long as the worker
 * is open.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, BUSY, POISONED, IO, BACKLOG_FULL, OUT_OF_RESOURCES, PANIC. After
 * OUT_OF_RESOURCES the leaves that were added stay. One thread at a time.
 */
poet_status poet_worker_advance(struct poet_worker *worker,
                                uint64_t leaves,
                                uint64_t time_us,
                                poet_advanced *advanced);

/**
 * Makes a poet_worker_advance running on another thread return; if none is running, the next one
 * returns at once. So the order of the two calls does not matter.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread, also during other calls.
 */
poet_status poet_worker_stop(struct poet_worker *worker);

/**
 * Makes a poet_worker_prove or poet_worker_audit running on another thread return CANCELLED,
 * within about a millisecond of hashing, or a pass over the log; if none is running, the next one
 * returns it. So the order of the two calls does not matter. Since version 1.1 of the ABI.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread, also during other calls.
 */
poet_status poet_worker_cancel(struct poet_worker *worker);

/**
 * Describes how a poet_worker computes, above all which backends it uses. Since version 1.1 of the
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
 * Reads the progress of a worker.
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
 * Reads the number of leaves done.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread, also during other calls.
 */
poet_status poet_worker_leaves(const struct poet_worker *worker, uint64_t *leaves);

/**
 * Makes the log file durable. After it has returned OK, everything that was appended before the
 * call survives a power failure. That excludes up to 50 ms of a running poet_worker_advance.
 * Without a log directory it does nothing. If it is never called, poet_worker_advance syncs after
 * every 2^17 entries.
 *
 * IO: the sync failed, and may have lost what was written since the last success. That then counts
 * as unwritten, durable_leaves does not rise, and this call returns IO until poet_worker_advance,
 * which keeps it in memory, has written it again.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, POISONED, IO, PANIC. Any thread, also during other calls; it
 * may take long, so call it from a separate thread.
 */
poet_status poet_worker_sync(const struct poet_worker *worker);

/**
 * Computes the root of the current tree.
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
 * threads: how many threads share the work, 1 to POET_MAX_THREADS, including the calling one; the
 * others end before the call returns.
 * proof: receives the handle; the caller must close it with poet_proof_close. It is independent of the
 * worker.
 *
 * Recomputes up to t subtrees of 2^subtree_height leaves and makes one pass over the log; GUIDE.md
 * says how long that takes. poet_worker_cancel stops it. It works even if the disk does not take
 * the entries missing in the log.
 *
 * Returns OK, NULL_POINTER, INVALID_ARGUMENT, NOT_OPEN, BUSY, POISONED, TOO_FEW_LEAVES (fewer than t),
 * IO, LOG_DAMAGED (poet_worker_audit can repair it), CANCELLED, OUT_OF_RESOURCES, PANIC. One
 * thread at a time.
 */
poet_status poet_worker_prove(struct poet_worker *worker,
                              uint32_t t,
                              uint32_t threads,
                              struct poet_proof **proof);

/**
 * Recomputes the whole log and repairs it. Replaces entries that have changed in memory or on the
 * disk. If the work itself went wrong, which a faulty CPU or memory can cause, takes the work back
 * to its last right entry: the worker then has fewer leaves, and goes on from there. The fields of
 * poet_worker_progress after prove_hashes_total report what was found. After a proof that fails
 * with LOG_DAMAGED, call this and then poet_worker_prove again.
 *
 * It takes about half as long as the work itself took, divided by the number of threads.
 * audited_leaves reports its progress, and poet_worker_cancel stops it; what was repaired by then
 * stays repaired. Since version 1.1 of the ABI.
 *
 * threads: how many threads share the work, 1 to POET_MAX_THREADS, including the calling one; the
 * others end before the call returns.
 *
 * Returns OK (whatever was found), NULL_POINTER, INVALID_ARGUMENT, NOT_OPEN, BUSY, POISONED, IO, CANCELLED,
 * PANIC. One thread at a time.
 */
poet_status poet_worker_audit(struct poet_worker *worker,
                              uint32_t threads);

/**
 * Decodes a proof from the bytes by whose hash an ATX refers to it: SCALE of root, proven leaves,
 * proof nodes and leaf count. (What nodes store and gossip is a longer message, which begins with
 * these bytes.) Does not check whether the proof is valid: poet_verify does.
 *
 * bytes: length bytes, not used after the call.
 * proof: receives the handle; the caller must close it with poet_proof_close.
 *
 * Returns OK, NULL_POINTER, INVALID_LENGTH (over POET_MAX_PROOF_BYTES), MALFORMED_PROOF,
 * OUT_OF_RESOURCES, PANIC. Any thread.
 */
poet_status poet_proof_decode(const uint8_t *bytes, size_t length, struct poet_proof **proof);

/**
 * Makes a proof from its parts. Does not check whether it is valid: poet_verify does.
 *
 * root: 32 bytes.
 * proven_leaves: proven_leaf_count * 32 bytes, in increasing order of their index; at most POET_T.
 * proof_nodes: proof_node_count * 32 bytes; at most POET_MAX_PROOF_NODES.
 * leaves: the leaf count.
 * proof: receives the handle; the caller must close it with poet_proof_close.
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
 * Closes a handle. Calls that use it on other threads run to their end.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, PANIC. Any thread.
 */
poet_status poet_proof_close(struct poet_proof *proof);

/**
 * Encodes the proof as the bytes that poet_proof_decode reads: SCALE of root, proven leaves, proof
 * nodes and leaf count. poet_proof_reference hashes them. A node stores more: the service's id,
 * the round's id, the statement and a signature as well.
 *
 * bytes: room for capacity bytes (POET_MAX_PROOF_BYTES always suffice), or NULL with capacity 0 to
 * get only the length. length: receives the number of bytes.
 *
 * Returns OK, NULL_POINTER, BUFFER_TOO_SMALL, NOT_OPEN, POISONED, PANIC. Any thread.
 */
poet_status poet_proof_encode(const struct poet_proof *proof,
                              uint8_t *bytes,
                              size_t capacity,
                              size_t *length);

/**
 * Computes the reference by which an ATX names the proof: BLAKE3 of its encoded bytes.
 *
 * reference: receives 32 bytes.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread.
 */
poet_status poet_proof_reference(const struct poet_proof *proof, uint8_t *reference);

/**
 * Reads the leaf count of the proof.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread.
 */
poet_status poet_proof_leaves(const struct poet_proof *proof, uint64_t *leaves);

/**
 * Reads the root of the proof.
 *
 * root: receives 32 bytes.
 *
 * Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread.
 */
poet_status poet_proof_root(const struct poet_proof *proof, uint8_t *root);

/**
 * Reads the labels of the proven leaves, in increasing order of their index.
 *
 * labels: room for capacity * 32 bytes, or NULL with capacity 0 to get only their number.
 * count: receives the number of labels, at most POET_T.
 *
 * Returns OK, NULL_POINTER, BUFFER_TOO_SMALL, NOT_OPEN, POISONED, PANIC. Any thread.
 */
poet_status poet_proof_proven_leaves(const struct poet_proof *proof,
                                     uint8_t *labels,
                                     size_t capacity,
                                     size_t *count);

/**
 * Reads the nodes that lead from the proven leaves to the root, in the order of the proof.
 *
 * nodes: room for capacity * 32 bytes, or NULL with capacity 0 to get only their number.
 * count: receives the number of nodes, at most POET_MAX_PROOF_NODES.
 *
 * Returns OK, NULL_POINTER, BUFFER_TOO_SMALL, NOT_OPEN, POISONED, PANIC. Any thread.
 */
poet_status poet_proof_nodes(const struct poet_proof *proof,
                             uint8_t *nodes,
                             size_t capacity,
                             size_t *count);

/**
 * Verifies that an encoded proof shows the given number of leaves of work on a statement. On the
 * Spacemesh network (depth 400, T = 150) it takes about a millisecond.
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
 * threads: how many threads share the work, 1 to POET_MAX_THREADS, including the calling one; the
 * others end before the call returns.
 * results: room for count entries; receives what poet_verify would return for each claim.
 *
 * Returns OK (all were checked; they need not be valid), NULL_POINTER, INVALID_ARGUMENT,
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
 * Computes the root of the membership tree, which is the statement of a round: BLAKE3 over the
 * challenges in increasing byte order of their node ids. Without members it is empty; with one
 * member it is the challenge itself.
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
