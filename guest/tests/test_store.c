/* The pool of blocks: bytes come out as they went in, every block comes back, and tunnels at their limits never run out of it. */
#include "credit.h"
#include "store.h"

#include "check.h"

#define CHAINS 1024u

static struct store store;
static struct chain chains[CHAINS];
static struct inflow inflows[CHAINS];

static unsigned free_blocks(void)
{
    unsigned count = STORE_BLOCKS - store.fresh;
    for (uint16_t block = store.spare; store.memory && block != STORE_NONE; block = store.next[block])
        count++;
    return count;
}

/* Bytes that tell their place in the stream. */
static void fill(uint8_t *bytes, size_t n, size_t offset)
{
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)((offset + i) * 131u >> 3);
}

static bool take(struct chain *chain, size_t n, size_t offset)
{
    struct iovec parts[4];
    size_t done = 0;
    while (done < n) {
        unsigned count = store_parts(&store, chain, parts, 4);
        for (unsigned i = 0; i < count && done < n; i++) {
            size_t part = parts[i].iov_len < n - done ? parts[i].iov_len : n - done;
            uint8_t expected[STORE_BLOCK];
            fill(expected, part, offset + done);
            if (memcmp(parts[i].iov_base, expected, part) != 0)
                return false;
            store_drop(&store, chain, part);
            done += part;
        }
        if (!count)
            return false;
    }
    return true;
}

static void bytes_come_out_as_they_went_in(void)
{
    static uint8_t bytes[70000];
    static const size_t sizes[] = {1, 4095, 1, 4096, 4097, 70000, 3, 8192, 12289};
    struct chain chain = {0};
    size_t written = 0, read = 0;
    for (unsigned round = 0; round < 300; round++) {
        size_t n = sizes[round % 9], drop;
        fill(bytes, n, written);
        CHECK(store_append(&store, &chain, bytes, n));
        written += n;
        drop = chain.size * (round % 4) / 3;
        CHECK(take(&chain, drop, read));
        read += drop;
        CHECK(chain.size == written - read);
    }
    CHECK(take(&chain, chain.size, read) && chain.size == 0);
    CHECK(store_parts(&store, &chain, &(struct iovec){0}, 1) == 0);
    CHECK(free_blocks() == STORE_BLOCKS);
}

static void a_block_that_was_freed_is_the_next_to_be_used(void)
{
    struct chain chain = {0};
    unsigned fresh = store.fresh;
    for (unsigned round = 0; round < 1000; round++) {
        CHECK(store_append(&store, &chain, (const uint8_t *)"0123456789", 10));
        store_drop(&store, &chain, 10);
    }
    CHECK(store.fresh == fresh && free_blocks() == STORE_BLOCKS);
}

static void without_blocks_nothing_more_is_held(void)
{
    static uint8_t bytes[STORE_BLOCK];
    struct chain chain = {0}, other = {0};
    for (unsigned i = 0; i < STORE_BLOCKS; i++)
        CHECK(store_append(&store, &chain, bytes, sizeof bytes));
    CHECK(!store_append(&store, &other, bytes, 1) && other.size == 0);
    store_drop(&store, &chain, 1);
    CHECK(!store_append(&store, &other, bytes, 1));
    store_drop(&store, &chain, STORE_BLOCK - 1);
    CHECK(store_append(&store, &other, bytes, STORE_BLOCK) && !store_append(&store, &other, bytes, 1));
    store_drop(&store, &chain, chain.size);
    store_drop(&store, &other, other.size);
    CHECK(free_blocks() == STORE_BLOCKS);
}

/* Each host sends all that it may, each workload takes a byte here and there: the worst that the blocks have to bear. */
static void tunnels_at_their_limits_never_fill_the_store(void)
{
    static uint8_t bytes[CREDIT_MOST];
    struct credit_pool pool = {0};
    uint32_t random = 1;
    for (unsigned i = 0; i < CHAINS; i++) {
        credit_open(&pool, &inflows[i]);
        chains[i] = (struct chain){0};
    }
    for (unsigned round = 0; round < 60; round++)
        for (unsigned i = 0; i < CHAINS; i++) {
            size_t n = inflows[i].allowed, drop;
            random = random * 1664525u + 1013904223u;
            CHECK(credit_take(&inflows[i], n) && store_append(&store, &chains[i], bytes, n));
            drop = random % 3 ? random % 5000 : chains[i].size - 1;
            store_drop(&store, &chains[i], drop < chains[i].size ? drop : chains[i].size);
            (void)credit_grant(&pool, &inflows[i], chains[i].size);
            CHECK(pool.extra <= CREDIT_EXTRA);
        }
    CHECK(free_blocks() < STORE_BLOCKS / 2);
    for (unsigned i = 0; i < CHAINS; i++) {
        store_drop(&store, &chains[i], chains[i].size);
        credit_close(&pool, &inflows[i]);
    }
    CHECK(pool.extra == 0 && pool.tunnels == 0 && free_blocks() == STORE_BLOCKS);
}

static void memory_that_was_given_back_can_be_had_again(void)
{
    struct chain chain = {0};
    store_close(&store);
    store_close(&store);
    CHECK(store_append(&store, &chain, (const uint8_t *)"x", 1) && store.fresh == 1);
    store_drop(&store, &chain, 1);
    store_close(&store);
}

int main(void)
{
    bytes_come_out_as_they_went_in();
    a_block_that_was_freed_is_the_next_to_be_used();
    without_blocks_nothing_more_is_held();
    tunnels_at_their_limits_never_fill_the_store();
    memory_that_was_given_back_can_be_had_again();
    return CHECK_RESULT();
}
