/* The pool of blocks. A freed block is the next to be used, so that only as many pages are touched as were ever needed at a time. */
#include "store.h"

#include <linux/mman.h>

static bool open_memory(struct store *store)
{
    if (store->memory)
        return true;
    store->memory = ak_map((size_t)STORE_BLOCKS * STORE_BLOCK);
    if (!store->memory)
        return false;
    (void)SYS(madvise, store->memory, (size_t)STORE_BLOCKS * STORE_BLOCK, MADV_DONTFORK);
    store->spare = STORE_NONE;
    store->fresh = 0;
    return true;
}

static uint16_t take_block(struct store *store)
{
    uint16_t block;
    if (!open_memory(store))
        return STORE_NONE;
    block = store->spare;
    if (block != STORE_NONE)
        store->spare = store->next[block];
    else if (store->fresh < STORE_BLOCKS)
        block = (uint16_t)store->fresh++;
    return block;
}

static bool extend(struct store *store, struct chain *chain)
{
    uint16_t block = take_block(store);
    if (block == STORE_NONE)
        return false;
    store->next[block] = STORE_NONE;
    if (chain->size) {
        store->next[chain->last] = block;
    } else {
        chain->first = block;
        chain->start = 0;
    }
    chain->last = block;
    chain->end = 0;
    return true;
}

bool store_append(struct store *store, struct chain *chain, const uint8_t *bytes, size_t n)
{
    while (n) {
        size_t part;
        if ((!chain->size || chain->end == STORE_BLOCK) && !extend(store, chain))
            return false;
        part = STORE_BLOCK - chain->end < n ? STORE_BLOCK - chain->end : n;
        memcpy(store->memory + (size_t)chain->last * STORE_BLOCK + chain->end, bytes, part);
        chain->end = (uint16_t)(chain->end + part);
        chain->size += part;
        bytes += part;
        n -= part;
    }
    return true;
}

unsigned store_parts(const struct store *store, const struct chain *chain, struct iovec *parts, unsigned most)
{
    size_t left = chain->size, start = chain->start;
    uint16_t block = chain->first;
    unsigned count = 0;
    while (left && count < most) {
        size_t part = STORE_BLOCK - start < left ? STORE_BLOCK - start : left;
        parts[count++] = (struct iovec){store->memory + (size_t)block * STORE_BLOCK + start, part};
        left -= part;
        start = 0;
        block = store->next[block];
    }
    return count;
}

void store_drop(struct store *store, struct chain *chain, size_t n)
{
    while (n) {
        uint16_t block = chain->first;
        size_t here = STORE_BLOCK - chain->start < chain->size ? STORE_BLOCK - chain->start : chain->size;
        size_t part = here < n ? here : n;
        chain->size -= part;
        chain->start = (uint16_t)(chain->start + part);
        n -= part;
        if (part < here)
            return;
        chain->first = store->next[block];
        chain->start = 0;
        store->next[block] = store->spare;
        store->spare = block;
    }
}

void store_close(struct store *store)
{
    if (store->memory)
        ak_unmap(store->memory, (size_t)STORE_BLOCKS * STORE_BLOCK);
    store->memory = NULL;
}
