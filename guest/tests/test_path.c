/* PATH search. */
#include "path.h"

#include "check.h"

static void expect(const char *path, const char *name, const char *const *wanted)
{
    char variable[MAX_PATH + 16] = "PATH=", out[MAX_PATH];
    char other[] = "PATHX=/wrong";
    char *envp[] = {other, variable, NULL};
    struct path_search search;
    if (path)
        strcat(variable, path);
    else
        envp[0] = NULL;
    path_search_begin(&search, name, envp);
    for (; *wanted; wanted++)
        CHECK(path_search_next(&search, out) && ak_streq(out, *wanted));
    CHECK(!path_search_next(&search, out));
}

#define EXPECT(path, name, ...) expect(path, name, (const char *const[]){__VA_ARGS__, NULL})

static void too_long_candidates_are_left_out(void)
{
    char path[MAX_PATH] = {0};
    memset(path, 'd', MAX_PATH - 8);
    strcat(path, ":/bin");
    EXPECT(path, "command", "/bin/command");
}

int main(void)
{
    EXPECT("/a:/b/c", "x", "/a/x", "/b/c/x");
    EXPECT("", "x", "x");
    EXPECT(":/a:", "x", "x", "/a/x", "x");
    EXPECT("/a::/b", "x", "/a/x", "x", "/b/x");
    EXPECT(NULL, "x", "/usr/local/bin/x", "/usr/bin/x", "/bin/x");
    too_long_candidates_are_left_out();
    return CHECK_RESULT();
}
