/* Does a little work, proves it, and verifies the proof: prove [LEAVES]. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

int main(int argc, char **argv) {
    static const uint8_t statement[] = "what the work is done for";
    static uint8_t bytes[POET_MAX_PROOF_BYTES];
    const uint64_t leaves = argc > 1 ? strtoull(argv[1], NULL, 10) : 20000;

    poet_worker_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.statement = statement;
    options.statement_bytes = sizeof statement;
    poet_worker *worker;
    check(poet_worker_open(&options, &worker), "open");

    /* In slices of 50 ms, so that the program can do other things between them. */
    uint64_t done = 0;
    while (done < leaves) {
        poet_advanced why;
        check(poet_worker_advance(worker, leaves - done, 50000, &why), "advance");
        check(poet_worker_leaves(worker, &done), "leaves");
    }

    poet_proof *proof;
    check(poet_worker_prove(worker, POET_T, 1, &proof), "prove");
    check(poet_worker_close(worker), "close the worker");

    size_t length;
    uint8_t reference[32];
    check(poet_proof_encode(proof, bytes, sizeof bytes, &length), "encode");
    check(poet_proof_reference(proof, reference), "reference");
    check(poet_proof_close(proof), "close the proof");
    printf("a proof of %" PRIu64 " leaves, %lu bytes, reference ", done, (unsigned long)length);
    for (size_t i = 0; i < sizeof reference; i++) {
        printf("%02x", reference[i]);
    }

    check(poet_verify(POET_WORK_FUNCTION_SHA256, POET_LABEL_DEPTH, statement, sizeof statement, done,
                      POET_T, bytes, length),
          "verify");
    printf("\nit is valid\n");

    /* It is not valid for one leaf more. */
    if (poet_verify(POET_WORK_FUNCTION_SHA256, POET_LABEL_DEPTH, statement, sizeof statement, done + 1,
                    POET_T, bytes, length) != POET_STATUS_INVALID_PROOF) {
        fprintf(stderr, "a wrong claim is not refused\n");
        return 1;
    }
    return 0;
}
