/*
 * Removing a tree, without recursion and with two descriptors at most, whatever its depth.
 *
 * The way down follows no symlink. The way up is "..", which another process can bend by moving a directory meanwhile; so each step up must
 * arrive at the directory that the way down came from.
 */
#include "builtin.h"

#include "descriptor.h"
#include "entry.h"

#include <asm/stat.h>

#define DEPTH_MAX 65536u

struct place {
    uint64_t device, inode;
};

struct removal {
    struct entry_reader reader; /* of the current directory */
    struct place *way; /* from the first directory to the current one */
    size_t depth, room;
};

static sysret place_of(int fd, struct place *place)
{
    struct stat status;
    sysret error = SYS(fstat, fd, &status);
    if (!error)
        *place = (struct place){(uint64_t)status.st_dev, (uint64_t)status.st_ino};
    return error;
}

static sysret remember_place(struct removal *r)
{
    if (r->depth == r->room) {
        size_t room = r->room ? r->room * 4 : 256;
        struct place *way = room <= DEPTH_MAX ? ak_map(room * sizeof *way) : NULL;
        if (!way)
            return -ENOMEM;
        if (r->way) {
            memcpy(way, r->way, r->depth * sizeof *way);
            ak_unmap(r->way, r->room * sizeof *way);
        }
        r->way = way;
        r->room = room;
    }
    return place_of(r->reader.fd, &r->way[r->depth++]);
}

static sysret descend(struct removal *r, int directory, const char *name)
{
    int before = r->reader.fd;
    sysret error = entry_open(&r->reader, directory, name, false);
    if (error)
        r->reader.fd = before;
    else if (before >= 0)
        (void)SYS(close, before);
    return error ? error : remember_place(r);
}

static sysret ascend(struct removal *r)
{
    struct place place;
    int before = r->reader.fd;
    sysret error = entry_open(&r->reader, before, "..", false);
    (void)SYS(close, before);
    if (!error)
        error = place_of(r->reader.fd, &place);
    r->depth--;
    if (!error && (place.device != r->way[r->depth - 1].device || place.inode != r->way[r->depth - 1].inode))
        error = -EBUSY;
    return error;
}

/* Removes a file or an empty directory; -ENOTEMPTY for a full one. */
static sysret remove_one(int directory, const char *name)
{
    sysret error = SYS(unlinkat, directory, name, 0), second;
    if (error != -EISDIR && error != -EPERM)
        return error;
    second = SYS(unlinkat, directory, name, AT_REMOVEDIR);
    if (second == -EEXIST)
        return -ENOTEMPTY;
    return second == -ENOTDIR ? error : second;
}

/* Empties the current directory, up to the first full directory in it, which it enters: 1; 0 when it is empty. */
static sysret empty_current(struct removal *r)
{
    const char *name;
    sysret more;
    while ((more = entry_next(&r->reader, &name)) > 0) {
        sysret error = remove_one(r->reader.fd, name);
        if (error == -ENOTEMPTY) {
            error = descend(r, r->reader.fd, name);
            return error ? error : 1;
        }
        if (error && error != -ENOENT)
            return error;
    }
    return more;
}

static sysret remove_tree(const char *path)
{
    static struct removal r;
    sysret error;
    r.reader.fd = -1;
    error = descend(&r, AT_FDCWD, path);
    while (!error) {
        error = empty_current(&r);
        if (error == 1) {
            error = 0;
            continue;
        }
        if (error || r.depth == 1)
            break;
        error = ascend(&r); /* its reader begins at the first entry again and meets the directory that is empty now */
    }
    return error ? error : SYS(unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}

int builtin_remove(char *const *argv)
{
    sysret error;
    bool recursive = ak_streq(argv[1], "r");
    if (!recursive && !ak_streq(argv[1], "-"))
        return EINVAL;
    error = remove_one(AT_FDCWD, argv[0]);
    if (error == -ENOTEMPTY && recursive)
        error = remove_tree(argv[0]);
    return (int)-error;
}
