/*
 * The bytes on their way into the sandbox, of all tunnels together: a pool of small blocks, and a chain of blocks for each tunnel. Bounded as a whole;
 * memory is touched only as it is needed, and given back when no tunnel is left.
 */
#ifndef AK_STORE_H
#define AK_STORE_H

#include "sys.h"

#include <linux/uio.h>

#define STORE_BLOCK 4096u
#define STORE_BLOCKS 8192u /* 32 MiB in all */
#define STORE_NONE UINT16_MAX

struct store {
    uint8_t *memory; /* NULL: nothing was ever held, or all was given back */
    uint16_t next[STORE_BLOCKS];
    uint16_t spare;  /* the first of the blocks that were used and are free */
    unsigned fresh;  /* blocks from here on were never used */
};

/* Held bytes, oldest first. All zero is an empty chain. */
struct chain {
    size_t size;
    uint16_t first, last;
    uint16_t start; /* of the bytes in the first block */
    uint16_t end;   /* of the bytes in the last block */
};

/* Appends all bytes; false when there is no memory, then a part of them may have been appended. */
bool store_append(struct store *store, struct chain *chain, const uint8_t *bytes, size_t n);
/* Points `parts` (at most `most`) at the oldest bytes; returns how many. */
unsigned store_parts(const struct store *store, const struct chain *chain, struct iovec *parts, unsigned most);
/* Drops the `n` oldest bytes, which there are. */
void store_drop(struct store *store, struct chain *chain, size_t n);
/* Gives the memory back; every chain must be empty. */
void store_close(struct store *store);

#endif
