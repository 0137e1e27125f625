/* Measures what crossing the boundary costs: boundary [DIRECTORY]. GUIDE.md explains the figures. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "poet.h"

static void check(poet_status status, const char *what) {
    if (status != POET_STATUS_OK) {
        char text[300];
        if (poet_last_error(text, sizeof text) != POET_STATUS_OK) {
            text[0] = '\0';
        }
        fprintf(stderr, "%s: %s: %s\n", what, poet_status_message(status), text);
        exit(1);
    }
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of an odd number of measurements. */
static double median(double *values, size_t count) {
    qsort(values, count, sizeof *values, compare);
    return values[count / 2];
}

#define SAMPLES 301
#define LEAVES 500

/* Nanoseconds for LEAVES leaves, made with this many per call. */
static double work(poet_worker *worker, uint64_t leaves_a_call) {
    poet_advanced why;
    const double start = now();
    for (uint64_t done = 0; done < LEAVES; done += leaves_a_call) {
        check(poet_worker_advance(worker, leaves_a_call, UINT64_MAX, &why), "advance");
    }
    return (now() - start) * 1e9;
}

/* The cost of calls of poet_worker_advance: the difference between the same work in one call and in a
 * call for each leaf. They take turns, so that slow changes of the machine affect both. */
static void measure_advance(const char *name, const char *directory, uint32_t subtree_height) {
    static double calls[SAMPLES];
    poet_worker_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.subtree_height = subtree_height;
    options.log_directory = directory;
    poet_worker *worker;
    check(poet_worker_open(&options, &worker), "open");
    for (size_t i = 0; i < SAMPLES; i++) {
        const double before = work(worker, LEAVES);
        const double split = work(worker, 1);
        const double after = work(worker, LEAVES);
        calls[i] = (split - (before + after) / 2) / (LEAVES - 1);
    }
    const double call_ns = median(calls, SAMPLES);
    printf("%-46s %8.0f ns, %.5f %% of 50 ms\n", name, call_ns, call_ns / 50e6 * 100);
    check(poet_worker_close(worker), "close");
}

int main(int argc, char **argv) {
    measure_advance("poet_worker_advance, log in memory", NULL, 0);
    if (argc > 1) {
        measure_advance("... log in a file, an entry for each call", argv[1], 0);
    }

    poet_work *work;
    check(poet_work_open(POET_WORK_FUNCTION_SHA256, 0, NULL, &work), "open");
    /* A chain of no steps: an empty call on a poet_work handle. */
    static double chains[SAMPLES], nodes[SAMPLES], labels[SAMPLES];
    uint8_t digest[32] = {0}, siblings[18 * 32] = {0};
    for (size_t i = 0; i < SAMPLES; i++) {
        double begin = now();
        for (int call = 0; call < 1000; call++) {
            check(poet_work_chain(work, 0, digest, digest), "chain");
        }
        chains[i] = (now() - begin) * 1e6;
        begin = now();
        for (int call = 0; call < 1000; call++) {
            check(poet_work_node(work, siblings, 32, digest, digest, digest), "node");
        }
        nodes[i] = (now() - begin) * 1e6;
        begin = now();
        for (int call = 0; call < 20; call++) {
            check(poet_work_label(work, siblings, 32, 0x3ffff, siblings, 18, digest), "label");
        }
        labels[i] = (now() - begin) * 1e9 / 20;
    }
    printf("%-46s %8.0f ns\n", "a call on a poet_work that hashes nothing", median(chains, SAMPLES));
    printf("%-46s %8.0f ns\n", "poet_work_node", median(nodes, SAMPLES));
    printf("%-46s %8.0f ns\n", "poet_work_label with 18 siblings", median(labels, SAMPLES));
    check(poet_work_close(work), "close");
    return 0;
}
