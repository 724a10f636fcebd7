/*
 * New file systems. mount(2) on "." of the target directory, not fsopen(2): it takes one call instead of one per option, and options may be
 * longer than fsconfig's 255 bytes, as those of an overlay are.
 */
#include "filesystem.h"

#include "kernel.h"

static unsigned long mount_flags(uint64_t attributes)
{
    static const struct {
        uint64_t attribute;
        unsigned long flag;
    } pairs[] = {
        {MOUNT_ATTR_RDONLY, MS_RDONLY},           {MOUNT_ATTR_NOSUID, MS_NOSUID},   {MOUNT_ATTR_NODEV, MS_NODEV},
        {MOUNT_ATTR_NOEXEC, MS_NOEXEC},           {MOUNT_ATTR_NOATIME, MS_NOATIME}, {MOUNT_ATTR_STRICTATIME, MS_STRICTATIME},
        {MOUNT_ATTR_NODIRATIME, MS_NODIRATIME},   {MOUNT_ATTR_NOSYMFOLLOW, MS_NOSYMFOLLOW},
    };
    unsigned long flags = 0;
    for (unsigned i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (attributes & pairs[i].attribute)
            flags |= pairs[i].flag;
    return flags;
}

sysret filesystem_mount(int directory, const char *type, const char *options, uint64_t attributes)
{
    sysret result = SYS(fchdir, directory);
    if (result < 0)
        return result;
    return SYS(mount, type, ".", type, mount_flags(attributes), *options ? options : NULL);
}
