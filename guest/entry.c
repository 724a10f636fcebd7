/* Directory entries. */
#include "entry.h"

#include "descriptor.h"

#include <asm/stat.h>

struct kernel_entry {
    uint64_t inode;
    int64_t offset;
    uint16_t length;
    uint8_t type;
    char name[];
};

sysret entry_record(uint8_t out[], int directory, const char *path, bool follow, const char *name, size_t name_length)
{
    struct stat status;
    sysret target = 0;
    sysret error = SYS(newfstatat, directory, path, &status, follow ? 0 : AT_SYMLINK_NOFOLLOW);
    if (error)
        return error;
    if (name_length > ENTRY_NAME_MAX)
        return -ENAMETOOLONG;
    if ((status.st_mode & MODE_TYPE) == MODE_SYMLINK)
        target = SYS(readlinkat, directory, path, out + ENTRY_FIXED + name_length, ENTRY_TARGET_MAX);
    if (target < 0)
        target = 0;
    ak_put_u32(out, (uint32_t)(ENTRY_FIXED + name_length + (size_t)target));
    ak_put_u32(out + 4, (uint32_t)status.st_mode);
    ak_put_u64(out + 8, (uint64_t)status.st_size);
    ak_put_u64(out + 16, (uint64_t)status.st_mtime * 1000000000u + (uint64_t)status.st_mtime_nsec);
    ak_put_u32(out + 24, status.st_uid);
    ak_put_u32(out + 28, status.st_gid);
    ak_put_u64(out + 32, (uint64_t)status.st_ino);
    ak_put_u32(out + 40, (uint32_t)status.st_nlink);
    ak_put_u16(out + 44, (uint16_t)name_length);
    ak_put_u16(out + 46, (uint16_t)target);
    memcpy(out + ENTRY_FIXED, name, name_length);
    return (sysret)(ENTRY_FIXED + name_length) + target;
}

sysret entry_open(struct entry_reader *reader, int directory, const char *path, bool follow)
{
    sysret fd = SYS(openat, directory, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK | (follow ? 0 : O_NOFOLLOW));
    reader->at = reader->filled = 0;
    reader->fd = fd < 0 ? -1 : (int)fd;
    return fd < 0 ? fd : 0;
}

static bool is_dot(const char *name)
{
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

sysret entry_next(struct entry_reader *reader, const char **name)
{
    for (;;) {
        const struct kernel_entry *entry;
        if (reader->at == reader->filled) {
            sysret n = SYS(getdents64, reader->fd, reader->buffer, sizeof reader->buffer);
            if (n <= 0)
                return n;
            reader->at = 0;
            reader->filled = (size_t)n;
        }
        entry = (const void *)(reader->buffer + reader->at);
        reader->at += entry->length;
        *name = entry->name;
        if (!is_dot(entry->name))
            return 1;
    }
}

sysret entry_rewind(struct entry_reader *reader)
{
    reader->at = reader->filled = 0;
    return SYS(lseek, reader->fd, 0, 0);
}
