/* Builtins that read and change files. Every argument is checked; every path is resolved by the kernel with the workload's rights. */
#include "builtin.h"

#include "descriptor.h"
#include "entry.h"

#include <asm/stat.h>

#define BUFFER 131072u
#define MODE_BITS 07777u

static bool parse_mode(const char *text, unsigned *mode)
{
    uint64_t value;
    if (!ak_parse_u64(text, 8, &value) || value > MODE_BITS)
        return false;
    *mode = (unsigned)value;
    return true;
}

/* Copies up to `left` bytes; 0 or errno. */
static int copy_range(int from, int to, uint64_t left)
{
    static char buffer[BUFFER];
    while (left) {
        sysret n = SYS(read, from, buffer, left < BUFFER ? left : BUFFER);
        sysret error;
        if (n == -EINTR)
            continue;
        if (n <= 0)
            return (int)-n;
        error = ak_write_all(to, buffer, (size_t)n);
        if (error)
            return (int)-error;
        left -= (uint64_t)n;
    }
    return 0;
}

/* Looks first: opening a device or a pipe can have effects, or wait for ever. */
static sysret open_regular(const char *path, int flags, unsigned mode)
{
    struct stat status;
    sysret fd = SYS(newfstatat, AT_FDCWD, path, &status, 0);
    if (fd == 0 && (status.st_mode & MODE_TYPE) != MODE_FILE)
        return -EINVAL;
    if (fd < 0 && fd != -ENOENT)
        return fd;
    fd = SYS(openat, AT_FDCWD, path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, mode);
    if (fd < 0)
        return fd;
    if (SYS(fstat, fd, &status) == 0 && (status.st_mode & MODE_TYPE) == MODE_FILE)
        return fd;
    (void)SYS(close, fd);
    return -EINVAL;
}

int builtin_read(char *const *argv)
{
    uint64_t offset, length;
    sysret fd, error;
    if (!ak_parse_u64(argv[1], 10, &offset) || !ak_parse_u64(argv[2], 10, &length) || offset > INT64_MAX)
        return EINVAL;
    fd = open_regular(argv[0], O_RDONLY, 0);
    if (fd < 0)
        return (int)-fd;
    error = SYS(lseek, fd, offset, 0);
    return error < 0 ? (int)-error : copy_range((int)fd, 1, length ? length : UINT64_MAX);
}

/* Makes each missing directory of `path`, the last component too if `whole`. */
static int make_directories(const char *path, unsigned mode, bool whole)
{
    char part[4096];
    size_t n = strlen(path);
    if (n >= sizeof part)
        return ENAMETOOLONG;
    for (size_t i = 1; i <= n; i++) {
        sysret error;
        if (path[i] != '/' && !(whole && i == n))
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        error = SYS(mkdirat, AT_FDCWD, part, i == n ? mode : 0755);
        if (error && error != -EEXIST && error != -EROFS && error != -EACCES)
            return (int)-error;
        /* An existing directory may well say EROFS or EACCES first; what is really missing shows at the next step. */
        if (error && error != -EEXIST && whole && i == n)
            return (int)-error;
    }
    return 0;
}

static bool parse_write_flags(const char *text, int *flags, bool *parents)
{
    *flags = O_WRONLY;
    for (*parents = false; *text; text++) {
        if (*text == 'c')
            *flags |= O_CREAT;
        else if (*text == 'x')
            *flags |= O_CREAT | O_EXCL;
        else if (*text == 'a')
            *flags |= O_APPEND;
        else if (*text == 't')
            *flags |= O_TRUNC;
        else if (*text == 'p')
            *parents = true;
        else
            return false;
    }
    return true;
}

int builtin_write(char *const *argv)
{
    unsigned mode;
    int flags, error;
    bool parents;
    sysret fd;
    if (!parse_mode(argv[1], &mode) || !parse_write_flags(argv[2], &flags, &parents))
        return EINVAL;
    (void)SYS(umask, 0); /* the mode that was asked for is the mode */
    error = parents ? make_directories(argv[0], 0755, false) : 0;
    if (error)
        return error;
    fd = open_regular(argv[0], flags, mode);
    if (fd < 0)
        return (int)-fd;
    error = copy_range(0, (int)fd, UINT64_MAX);
    if (!error)
        error = (int)-SYS(close, fd); /* network file systems and quotas speak up here */
    return error;
}

static size_t last_component(const char *path, const char **name)
{
    size_t end = strlen(path), start;
    while (end > 1 && path[end - 1] == '/')
        end--;
    start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    if (start == end)
        start = 0; /* "/" */
    *name = path + start;
    return end - start;
}

int builtin_stat(char *const *argv)
{
    uint8_t record[ENTRY_MAX];
    const char *name;
    size_t name_length = last_component(argv[0], &name);
    bool follow = ak_streq(argv[1], "f");
    sysret n;
    if (!follow && !ak_streq(argv[1], "l"))
        return EINVAL;
    if (name_length > ENTRY_NAME_MAX)
        return ENAMETOOLONG;
    n = entry_record(record, AT_FDCWD, argv[0], follow, name, name_length);
    if (n >= 0)
        n = ak_write_all(1, record, (size_t)n);
    return n < 0 ? (int)-n : 0;
}

int builtin_list(char *const *argv)
{
    static uint8_t out[BUFFER];
    struct entry_reader reader;
    const char *name;
    size_t used = 0;
    sysret n = entry_open(&reader, AT_FDCWD, argv[0], true);
    if (n < 0)
        return (int)-n;
    while ((n = entry_next(&reader, &name)) > 0) {
        sysret size = entry_record(out + used, reader.fd, name, false, name, strlen(name));
        if (size == -ENOENT)
            continue; /* removed meanwhile */
        if (size < 0)
            return (int)-size;
        used += (size_t)size;
        if (used > sizeof out - ENTRY_MAX) {
            n = ak_write_all(1, out, used);
            used = 0;
        }
        if (n < 0)
            break;
    }
    if (n == 0)
        n = ak_write_all(1, out, used);
    return n < 0 ? (int)-n : 0;
}

int builtin_mkdir(char *const *argv)
{
    struct stat status;
    unsigned mode;
    sysret error;
    if (!parse_mode(argv[1], &mode))
        return EINVAL;
    (void)SYS(umask, 0);
    if (ak_streq(argv[2], "-"))
        return (int)-SYS(mkdirat, AT_FDCWD, argv[0], mode);
    if (!ak_streq(argv[2], "p"))
        return EINVAL;
    error = make_directories(argv[0], mode, true);
    if (SYS(newfstatat, AT_FDCWD, argv[0], &status, 0))
        return error ? (int)error : ENOENT;
    return (status.st_mode & MODE_TYPE) == MODE_DIRECTORY ? 0 : EEXIST;
}

int builtin_move(char *const *argv)
{
    return (int)-SYS(renameat2, AT_FDCWD, argv[0], AT_FDCWD, argv[1], 0);
}

int builtin_symlink(char *const *argv)
{
    return (int)-SYS(symlinkat, argv[0], AT_FDCWD, argv[1]);
}

int builtin_chmod(char *const *argv)
{
    unsigned mode;
    return parse_mode(argv[1], &mode) ? (int)-SYS(fchmodat, AT_FDCWD, argv[0], mode) : EINVAL;
}
