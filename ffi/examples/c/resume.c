/* Works in a child process, kills it with SIGKILL, and goes on from its log: resume DIRECTORY [LEAVES].
 * The tree must be that of an undisturbed worker. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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

static poet_worker *open_worker(const char *directory) {
    static const uint8_t statement[] = "a round that is interrupted";
    poet_worker_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.statement = statement;
    options.statement_bytes = sizeof statement;
    options.subtree_height = 4;
    options.log_directory = directory;
    poet_worker *worker;
    check(poet_worker_open(&options, &worker), "open");
    return worker;
}

/* Works until there are this many leaves, and writes the root. */
static void work_to(poet_worker *worker, uint64_t leaves, uint8_t *root) {
    uint64_t done;
    poet_advanced why;
    check(poet_worker_leaves(worker, &done), "leaves");
    if (done < leaves) {
        check(poet_worker_advance(worker, leaves - done, UINT64_MAX, &why), "advance");
    }
    check(poet_worker_root(worker, root), "root");
}

/* Waits until there are some entries in the log. */
static int wait_for_log(const char *directory) {
    const struct timespec moment = {0, 10 * 1000 * 1000};
    char path[4096];
    struct stat log;
    (void)snprintf(path, sizeof path, "%s/tree.log", directory);
    for (int i = 0; i < 6000; i++) {
        if (stat(path, &log) == 0 && log.st_size > 1000) {
            return 1;
        }
        (void)nanosleep(&moment, NULL);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s DIRECTORY [LEAVES]\n", argv[0]);
        return 2;
    }
    const uint64_t leaves = argc > 2 ? strtoull(argv[2], NULL, 10) : 50000;
    uint8_t resumed[32], undisturbed[32];

    const pid_t child = fork();
    if (child < 0) {
        perror("fork");
        return 1;
    }
    if (child == 0) {
        /* Goes on until it is killed. */
        poet_advanced why;
        (void)poet_worker_advance(open_worker(argv[1]), UINT64_MAX, UINT64_MAX, &why);
        _exit(1);
    }
    if (!wait_for_log(argv[1])) {
        fprintf(stderr, "the child has not begun after a minute\n");
        (void)kill(child, SIGKILL);
        return 1;
    }
    int status;
    if (kill(child, SIGKILL) != 0 || waitpid(child, &status, 0) != child || !WIFSIGNALED(status)) {
        fprintf(stderr, "the child was not killed at its work\n");
        return 1;
    }

    uint64_t found;
    poet_worker *worker = open_worker(argv[1]);
    check(poet_worker_leaves(worker, &found), "leaves");
    printf("killed; %" PRIu64 " leaves are still there\n", found);
    if (found == 0) {
        fprintf(stderr, "nothing was left to go on from\n");
        return 1;
    }
    const uint64_t all = found > leaves ? found : leaves;
    work_to(worker, all, resumed);
    check(poet_worker_sync(worker), "sync");
    check(poet_worker_close(worker), "close");

    worker = open_worker(NULL);
    work_to(worker, all, undisturbed);
    check(poet_worker_close(worker), "close");
    if (memcmp(resumed, undisturbed, sizeof resumed) != 0) {
        fprintf(stderr, "the resumed tree has another root\n");
        return 1;
    }
    printf("resumed to %" PRIu64 " leaves: the same root as without the interruption\n", all);
    return 0;
}
