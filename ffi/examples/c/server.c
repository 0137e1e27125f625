/* A server's work on one round, as GUIDE.md describes it: server DIRECTORY [SECONDS]. Goes on where the last
 * process was, works to the end of the round, makes its proof, verifies it and deletes the log. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "poet.h"

/* What a server stores, durably, when a round closes. */
struct round {
    const uint8_t *statement;
    size_t statement_bytes;
    uint32_t subtree_height;
    const char *directory;
    time_t end;
};

static void complain(poet_status status, const char *what) {
    char text[300];
    if (poet_last_error(text, sizeof text) != POET_STATUS_OK) {
        text[0] = '\0';
    }
    fprintf(stderr, "%s: %s: %s\n", what, poet_status_message(status), text);
}

static void check(poet_status status, const char *what) {
    if (status != POET_STATUS_OK) {
        complain(status, what);
        exit(1);
    }
}

/* A thread of its own, as syncs may take long. It ends when the worker is closed. */
static void *sync_every_second(void *worker) {
    poet_status status;
    while ((status = poet_worker_sync(worker)) != POET_STATUS_NOT_OPEN) {
        if (status == POET_STATUS_IO) {
            complain(status, "sync");                  /* advance writes again what may be lost */
        } else {
            check(status, "sync");
        }
        sleep(1);
    }
    return NULL;
}

static poet_worker *open_worker(const struct round *round) {
    poet_worker_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.statement = round->statement;              /* stored with the round */
    options.statement_bytes = round->statement_bytes;
    options.subtree_height = round->subtree_height;    /* stored with the round */
    options.log_directory = round->directory;          /* one for each round; it must exist */
    poet_worker *worker;
    check(poet_worker_open(&options, &worker), "open"); /* new, or where the last process was */
    return worker;
}

/* Returns whether the round's end is reached; otherwise another thread has stopped the work. */
static int work_to_the_end(poet_worker *worker, const struct round *round) {
    uint64_t leaves;
    poet_status before = POET_STATUS_OK;
    check(poet_worker_leaves(worker, &leaves), "leaves");
    while (time(NULL) < round->end || leaves < POET_T) {
        poet_advanced why = POET_ADVANCED_TIME;
        const poet_status status = poet_worker_advance(worker, UINT64_MAX, 50000, &why);
        switch (status) {
        case POET_STATUS_OK:
        case POET_STATUS_IO:                           /* the leaves were added */
        case POET_STATUS_BACKLOG_FULL:                 /* no more leaves until the log can be written */
        case POET_STATUS_OUT_OF_RESOURCES:             /* no more leaves until there is memory */
            break;
        default:
            check(status, "advance");
        }
        if (status != before && status != POET_STATUS_OK) {
            complain(status, "advance");
        }
        if (status == POET_STATUS_BACKLOG_FULL || status == POET_STATUS_OUT_OF_RESOURCES) {
            sleep(1);
        }
        if (why == POET_ADVANCED_STOPPED) {
            return 0;
        }
        before = status;
        check(poet_worker_leaves(worker, &leaves), "leaves");
    }
    return 1;
}

/* Returns the proof; NULL if another thread has stopped the work. */
static poet_proof *prove(poet_worker *worker, const struct round *round, uint32_t threads) {
    poet_proof *proof;
    poet_status status = poet_worker_prove(worker, POET_T, threads, &proof);
    if (status == POET_STATUS_LOG_DAMAGED) {
        complain(status, "prove");
        check(poet_worker_audit(worker, threads), "audit");
        if (!work_to_the_end(worker, round)) {         /* the audit may have taken leaves back */
            return NULL;
        }
        status = poet_worker_prove(worker, POET_T, threads, &proof);
    }
    check(status, "prove");
    return proof;
}

/* Does with the proof what a server does before it publishes it. */
static void publish(const poet_proof *proof, const struct round *round) {
    static unsigned char bytes[POET_MAX_PROOF_BYTES];  /* 183,196: any proof fits */
    size_t length;
    uint64_t leaves;
    check(poet_proof_leaves(proof, &leaves), "leaves of the proof");
    check(poet_proof_encode(proof, bytes, sizeof bytes, &length), "encode");
    check(poet_verify(POET_WORK_FUNCTION_SHA256, 0, round->statement, round->statement_bytes, leaves,
                      POET_T, bytes, length),
          "verify");

    unsigned char root[32], labels[POET_T * 32];
    static unsigned char nodes[POET_MAX_PROOF_NODES * 32];
    size_t label_count, node_count;
    check(poet_proof_root(proof, root), "root");
    check(poet_proof_proven_leaves(proof, labels, POET_T, &label_count), "labels"); /* counts, not bytes */
    check(poet_proof_nodes(proof, nodes, POET_MAX_PROOF_NODES, &node_count), "nodes");

    printf("a valid proof of %" PRIu64 " leaves: %lu bytes, %lu labels, %lu nodes\n", leaves,
           (unsigned long)length, (unsigned long)label_count, (unsigned long)node_count);
}

int main(int argc, char **argv) {
    static const uint8_t statement[] = "the membership root of the round";
    if (argc < 2) {
        fprintf(stderr, "usage: %s DIRECTORY [SECONDS]\n", argv[0]);
        return 2;
    }
    /* 12 would suit a round of two weeks. */
    const struct round round = {statement, sizeof statement - 1, 4, argv[1],
                                time(NULL) + (argc > 2 ? atoi(argv[2]) : 10)};
    pthread_t syncing;
    poet_worker *worker = open_worker(&round);
    if (pthread_create(&syncing, NULL, sync_every_second, worker) != 0) {
        fprintf(stderr, "a thread cannot be started\n");
        return 1;
    }
    poet_proof *proof = work_to_the_end(worker, &round) ? prove(worker, &round, 2) : NULL;
    if (proof != NULL) {
        publish(proof, &round);
        check(poet_proof_close(proof), "close the proof");
    }
    check(poet_worker_close(worker), "close the worker");
    (void)pthread_join(syncing, NULL);
    if (proof != NULL) {
        /* Only now, when the proof is stored durably: without the log it could not be made again. */
        char log[4096];
        (void)snprintf(log, sizeof log, "%s/tree.log", round.directory);
        if (unlink(log) != 0) {
            perror(log);
            return 1;
        }
    }
    return 0;
}
