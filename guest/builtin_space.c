/* The builtin space: how full the file system of a path is. */
#include "builtin.h"

#include "sys.h"

/* struct statfs of both architectures: eight-byte members, of which these are used. */
struct space {
    long type, block_size;
    uint64_t blocks, free_blocks, available_blocks, inodes, free_inodes;
    long rest[32];
};

int builtin_space(char *const *argv)
{
    struct space space = {0};
    uint8_t record[32];
    sysret result = SYS(statfs, argv[0], &space);
    if (result < 0)
        return (int)-result;
    ak_put_u64(record, space.blocks * (uint64_t)space.block_size);
    ak_put_u64(record + 8, space.available_blocks * (uint64_t)space.block_size);
    ak_put_u64(record + 16, space.inodes);
    ak_put_u64(record + 24, space.free_inodes);
    result = ak_write_all(1, record, sizeof record);
    return result < 0 ? (int)-result : 0;
}
