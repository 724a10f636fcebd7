/* PATH search as execvp(3) does it; an empty component is the working directory. */
#include "path.h"

#define DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin"

void path_search_begin(struct path_search *search, const char *name, char *const *envp)
{
    search->name = name;
    search->rest = DEFAULT_PATH;
    for (; *envp; envp++)
        if (strlen(*envp) >= 5 && memcmp(*envp, "PATH=", 5) == 0)
            search->rest = *envp + 5;
}

static bool path_join(const char *directory, size_t n, const char *name, char out[MAX_PATH])
{
    size_t name_size = strlen(name) + 1;
    size_t prefix = n ? n + 1 : 0;
    if (prefix >= MAX_PATH || name_size > MAX_PATH - prefix)
        return false;
    if (n) {
        memcpy(out, directory, n);
        out[n] = '/';
    }
    memcpy(out + prefix, name, name_size);
    return true;
}

bool path_search_next(struct path_search *search, char out[MAX_PATH])
{
    while (search->rest) {
        const char *start = search->rest;
        size_t n = 0;
        while (start[n] && start[n] != ':')
            n++;
        search->rest = start[n] ? start + n + 1 : NULL;
        if (path_join(start, n, search->name, out))
            return true;
    }
    return false;
}
