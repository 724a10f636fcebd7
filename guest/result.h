/* The memory of request results, so that a request that comes again after a lost answer is not carried out again. */
#ifndef AK_RESULT_H
#define AK_RESULT_H

#include "sys.h"

#define RESULTS_MAX 256u
#define RESULT_PENDING -1

struct result {
    uint64_t id;
    uint64_t exec; /* whose signal it is */
    int32_t error; /* 0, errno (positive), or RESULT_PENDING */
    uint32_t zero;
};

struct results {
    struct result entries[RESULTS_MAX];
    unsigned next; /* the oldest, which is replaced */
};

/* The result of request `id`, or NULL. */
struct result *results_find(struct results *results, uint64_t id);
void results_add(struct results *results, uint64_t id, uint64_t exec, int error);
/* A result that waits for the supervisor of `exec`, or NULL. */
struct result *results_pending(struct results *results, uint64_t exec);

#endif
