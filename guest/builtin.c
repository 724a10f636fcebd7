/* The table of builtins: number, count of arguments, function. */
#include "builtin.h"

static const struct builtin {
    int arguments;
    int (*run)(char *const *argv);
} builtins[] = {
    {0, NULL},
    {3, builtin_read},
    {3, builtin_write},
    {2, builtin_stat},
    {1, builtin_list},
    {3, builtin_mkdir},
    {2, builtin_remove},
    {2, builtin_move},
    {1, builtin_watch},
    {2, builtin_connect},
    {2, builtin_symlink},
    {2, builtin_chmod},
    {1, builtin_space},
};

bool builtin_exists(unsigned number)
{
    return number > 0 && number < sizeof builtins / sizeof builtins[0];
}

int builtin_run(unsigned number, int argc, char *const *argv)
{
    if (!builtin_exists(number) || argc != builtins[number].arguments)
        return EINVAL;
    return builtins[number].run(argv);
}
