/* Standard input's offsets: repeats are cut off, gaps and excess refused, whatever the order. */
#include "intake.h"

#include "check.h"

static uint8_t stream[2 * INTAKE_CAPACITY];

static void open_intake(struct intake *in)
{
    *in = (struct intake){0};
    CHECK(ring_open(&in->ring, INTAKE_CAPACITY));
}

static bool holds(const struct intake *in)
{
    struct iovec parts[2];
    unsigned count = ring_held_parts(&in->ring, in->ring.begin, INTAKE_CAPACITY, parts);
    uint64_t at = in->ring.begin;
    for (unsigned i = 0; i < count; i++) {
        if (memcmp(parts[i].iov_base, stream + at, parts[i].iov_len) != 0)
            return false;
        at += parts[i].iov_len;
    }
    return at == in->ring.end;
}

static void repeats_are_cut_off(void)
{
    struct intake in;
    open_intake(&in);
    CHECK(intake_offer(&in, 0, stream, 10, false) == 0 && in.ring.end == 10);
    CHECK(intake_offer(&in, 0, stream, 10, false) == 0 && in.ring.end == 10);
    CHECK(intake_offer(&in, 5, stream + 5, 10, false) == 0 && in.ring.end == 15);
    CHECK(intake_offer(&in, 3, stream + 3, 4, false) == 0 && in.ring.end == 15);
    CHECK(intake_offer(&in, 15, stream, 0, false) == 0 && in.ring.end == 15);
    CHECK(holds(&in));
    ring_close(&in.ring);
}

static void gaps_and_excess_are_refused(void)
{
    struct intake in;
    open_intake(&in);
    CHECK(intake_offer(&in, 1, stream, 1, false) == -EINVAL);
    CHECK(intake_offer(&in, 0, stream, INTAKE_CAPACITY + 1, false) == -EINVAL && in.ring.end == 0);
    CHECK(intake_offer(&in, UINT64_MAX, stream, 2, false) == -EINVAL);
    CHECK(intake_offer(&in, 0, stream, INTAKE_CAPACITY, false) == 0);
    CHECK(intake_offer(&in, INTAKE_CAPACITY, stream, 1, false) == -EINVAL);
    CHECK(ring_consume(&in.ring, 7) && intake_limit(&in) == INTAKE_CAPACITY + 7);
    CHECK(intake_offer(&in, INTAKE_CAPACITY, stream + INTAKE_CAPACITY, 7, false) == 0 && holds(&in));
    ring_close(&in.ring);
}

static void the_end_is_the_end(void)
{
    struct intake in;
    open_intake(&in);
    CHECK(intake_offer(&in, 0, stream, 4, false) == 0);
    CHECK(intake_offer(&in, 0, stream, 3, true) == -EINVAL && !in.ended);
    CHECK(intake_offer(&in, 2, stream + 2, 4, true) == 0 && in.ended && in.ring.end == 6);
    CHECK(intake_offer(&in, 6, stream, 0, true) == 0);
    CHECK(intake_offer(&in, 6, stream + 6, 1, false) == -EINVAL && in.ring.end == 6);
    CHECK(intake_offer(&in, 0, stream, 6, false) == 0);
    ring_close(&in.ring);
}

static void what_nobody_reads_is_dropped_but_counted(void)
{
    struct intake in;
    open_intake(&in);
    CHECK(intake_offer(&in, 0, stream, 100, false) == 0);
    intake_discard(&in);
    CHECK(in.ring.begin == 100);
    CHECK(intake_offer(&in, 100, stream, 1000, false) == 0 && in.ring.begin == 1100 && in.ring.end == 1100);
    ring_close(&in.ring);
}

static void progress_is_announced_in_quarters_and_at_rest(void)
{
    struct intake in;
    open_intake(&in);
    CHECK(!intake_should_announce(&in));
    CHECK(intake_offer(&in, 0, stream, INTAKE_CAPACITY, false) == 0 && !intake_should_announce(&in));
    CHECK(ring_consume(&in.ring, INTAKE_CAPACITY / 4 - 1) && !intake_should_announce(&in));
    CHECK(ring_consume(&in.ring, INTAKE_CAPACITY / 4) && intake_should_announce(&in));
    in.announced = in.ring.begin;
    CHECK(!intake_should_announce(&in));
    CHECK(ring_consume(&in.ring, INTAKE_CAPACITY) && intake_should_announce(&in));
    ring_close(&in.ring);
}

int main(void)
{
    for (size_t i = 0; i < sizeof stream; i++)
        stream[i] = (uint8_t)(i * 13 + i / 256);
    repeats_are_cut_off();
    gaps_and_excess_are_refused();
    the_end_is_the_end();
    what_nobody_reads_is_dropped_but_counted();
    progress_is_announced_in_quarters_and_at_rest();
    return CHECK_RESULT();
}
