/* Builtins (docs/guest-protocol.md, section 4): run in a started process instead of a program; each returns 0 or an errno, positive. */
#ifndef AK_BUILTIN_H
#define AK_BUILTIN_H

#include "sys.h"

bool builtin_exists(unsigned number);
/* Runs with descriptors 0-2 set up and the workload's rights; returns the exit code. */
int builtin_run(unsigned number, int argc, char *const *argv);

int builtin_read(char *const *argv);
int builtin_write(char *const *argv);
int builtin_stat(char *const *argv);
int builtin_list(char *const *argv);
int builtin_mkdir(char *const *argv);
int builtin_remove(char *const *argv);
int builtin_move(char *const *argv);
int builtin_watch(char *const *argv);
int builtin_connect(char *const *argv);
int builtin_symlink(char *const *argv);
int builtin_chmod(char *const *argv);
int builtin_space(char *const *argv);

#endif
