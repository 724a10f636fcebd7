/* The ring against a plain model: the whole stream in one array. */
#include "ring.h"

#include "check.h"

#define STREAM 40000u

static uint8_t stream[STREAM];

static size_t gather(const struct ring *ring, uint64_t offset, size_t limit, uint8_t *out)
{
    struct iovec parts[2];
    unsigned count = ring_held_parts(ring, offset, limit, parts);
    size_t n = 0;
    for (unsigned i = 0; i < count; i++) {
        memcpy(out + n, parts[i].iov_base, parts[i].iov_len);
        n += parts[i].iov_len;
    }
    return n;
}

static void check_content(const struct ring *ring)
{
    uint8_t out[STREAM];
    size_t held = (size_t)(ring->end - ring->begin);
    CHECK(held <= ring->capacity && ring_space(ring) == ring->capacity - held);
    CHECK(gather(ring, ring->begin, STREAM, out) == held);
    CHECK(memcmp(out, stream + ring->begin, held) == 0);
    if (held > 3) {
        CHECK(gather(ring, ring->begin + 2, 1, out) == 1 && out[0] == stream[ring->begin + 2]);
    }
    CHECK(gather(ring, ring->end, 1, out) == 0);
    CHECK(ring->begin == 0 || gather(ring, ring->begin - 1, 1, out) == 0);
}

static void write_some(struct ring *ring, size_t n)
{
    struct iovec parts[2];
    unsigned count = ring_free_parts(ring, n, parts);
    size_t done = 0;
    for (unsigned i = 0; i < count; i++) {
        memcpy(parts[i].iov_base, stream + ring->end + done, parts[i].iov_len);
        done += parts[i].iov_len;
    }
    CHECK(done <= n);
    ring_commit(ring, done);
}

static void what_goes_in_comes_out(bool dropping)
{
    struct ring ring;
    CHECK(ring_open(&ring, 4096));
    srand(dropping ? 3 : 4);
    while (ring.end < STREAM - 6000) {
        size_t n = (size_t)rand() % (dropping ? 6000 : 3000);
        if (dropping)
            ring_push(&ring, stream + ring.end, n);
        else
            write_some(&ring, n);
        check_content(&ring);
        if (rand() % 2)
            CHECK(ring_consume(&ring, ring.begin + (ring.end - ring.begin) * (uint64_t)(rand() % 5) / 4));
        check_content(&ring);
    }
    ring_close(&ring);
    CHECK(ring_space(&ring) == ring.capacity - (size_t)(ring.end - ring.begin));
}

static void a_full_ring_takes_nothing(void)
{
    struct ring ring;
    struct iovec parts[2];
    CHECK(ring_open(&ring, 4096));
    write_some(&ring, 5000);
    CHECK(ring.end == 4096 && ring_space(&ring) == 0 && ring_free_parts(&ring, 1, parts) == 0);
    CHECK(!ring_consume(&ring, 4097) && ring.begin == 0);
    CHECK(ring_consume(&ring, 100) && ring.begin == 100);
    CHECK(ring_consume(&ring, 50) && ring.begin == 100);
    ring_close(&ring);
}

int main(void)
{
    for (size_t i = 0; i < STREAM; i++)
        stream[i] = (uint8_t)(i * 31 + i / 256);
    what_goes_in_comes_out(false);
    what_goes_in_comes_out(true);
    a_full_ring_takes_nothing();
    return CHECK_RESULT();
}
