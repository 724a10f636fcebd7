/* The candidates of a PATH search: pure. */
#ifndef AK_PATH_H
#define AK_PATH_H

#include "request.h"

struct path_search {
    const char *rest; /* of PATH; NULL: exhausted */
    const char *name;
};

/* Starts the search of `name` along PATH of `envp`, or along the default when it is not set. */
void path_search_begin(struct path_search *search, const char *name, char *const *envp);
/* Writes the next candidate; false when there is none. Candidates that are too long are left out. */
bool path_search_next(struct path_search *search, char out[MAX_PATH]);

#endif
