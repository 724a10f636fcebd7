/* Paths that cannot be redirected: resolved by the kernel beneath a directory, or from the root, without following any symlink. */
#ifndef AK_BENEATH_H
#define AK_BENEATH_H

#include "sys.h"

/* All return a descriptor (close-on-exec, of no use but for naming what it is) that the caller closes, or -errno. Directories are made with mode 755, files with 644. */

/* Opens an absolute path with these flags of open(2). */
sysret beneath_root(const char *path, unsigned flags);

/* Opens what is at `path` beneath `directory`. */
sysret beneath_open(int directory, const char *path);

/* As beneath_open; where a symlink is at `path`, opens the link itself. */
sysret beneath_open_itself(int directory, const char *path);

/* Opens the directory at `path`, made with its parents where they are missing. */
sysret beneath_make_directory(int directory, const char *path);

/* As beneath_make_directory, where the caller has just seen that nothing is there. */
sysret beneath_new_directory(int directory, const char *path);

/* Makes an empty file at `path`, where nothing may be, with its parents. */
sysret beneath_make_file(int directory, const char *path);

/* Opens the directory that holds `path`, made where it is missing; `name` is set to the last component. */
sysret beneath_parent(int directory, const char *path, const char **name);

#endif
