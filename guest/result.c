/* Request results, oldest replaced first. */
#include "result.h"

struct result *results_find(struct results *results, uint64_t id)
{
    for (unsigned i = 0; i < RESULTS_MAX; i++)
        if (results->entries[i].id == id)
            return &results->entries[i];
    return NULL;
}

void results_add(struct results *results, uint64_t id, uint64_t exec, int error)
{
    results->entries[results->next] = (struct result){.id = id, .exec = exec, .error = error};
    results->next = (results->next + 1) % RESULTS_MAX;
}

struct result *results_pending(struct results *results, uint64_t exec)
{
    for (unsigned i = 0; i < RESULTS_MAX; i++)
        if (results->entries[i].exec == exec && results->entries[i].error == RESULT_PENDING)
            return &results->entries[i];
    return NULL;
}
