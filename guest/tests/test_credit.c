/* Credit: windows grow while bytes pass, tunnels share what there is, and nobody waits for ever. */
#include "credit.h"

#include "check.h"

/* The host sends all that it may and the workload takes it at once, until the window grows no more; returns the window. */
static uint32_t grown(struct credit_pool *pool, struct inflow *inflow)
{
    for (unsigned round = 0; round < 20; round++) {
        CHECK(inflow->allowed > 0);
        CHECK(credit_take(inflow, inflow->allowed));
        (void)credit_grant(pool, inflow, 0);
    }
    return inflow->window;
}

static void a_tunnel_starts_small_and_grows(void)
{
    struct credit_pool pool = {0};
    struct inflow inflow;
    credit_open(&pool, &inflow);
    CHECK(inflow.allowed == CREDIT_START && !credit_take(&inflow, CREDIT_START + 1));
    CHECK(credit_take(&inflow, 100) && credit_grant(&pool, &inflow, 0) == 0);
    CHECK(credit_take(&inflow, 4000) && credit_grant(&pool, &inflow, 4100) == 0);
    CHECK(credit_grant(&pool, &inflow, 0) == 2 * CREDIT_START - (CREDIT_START - 4100));
    CHECK(inflow.allowed == 2 * CREDIT_START);
    CHECK(grown(&pool, &inflow) == CREDIT_MOST && inflow.allowed == CREDIT_MOST);
    credit_close(&pool, &inflow);
    CHECK(pool.extra == 0 && pool.tunnels == 0);
}

static void what_is_held_is_not_granted_again(void)
{
    struct credit_pool pool = {0};
    struct inflow inflow;
    credit_open(&pool, &inflow);
    (void)grown(&pool, &inflow);
    CHECK(credit_take(&inflow, CREDIT_MOST) && !credit_take(&inflow, 1));
    CHECK(credit_grant(&pool, &inflow, CREDIT_MOST) == 0);
    CHECK(credit_grant(&pool, &inflow, CREDIT_MOST / 2) == CREDIT_MOST / 2);
    credit_close(&pool, &inflow);
}

static void many_tunnels_share(void)
{
    static struct inflow inflows[1024];
    struct credit_pool pool = {0};
    uint32_t last = 0;
    for (unsigned i = 0; i < 1024; i++) {
        credit_open(&pool, &inflows[i]);
        last = grown(&pool, &inflows[i]);
        CHECK(pool.extra <= CREDIT_EXTRA);
    }
    CHECK(last < 2 * CREDIT_START);
    /* The first ones, whose windows are wide, shrink as they go on. */
    for (unsigned round = 0; round < 3; round++)
        for (unsigned i = 0; i < 1024; i++)
            CHECK(grown(&pool, &inflows[i]) == CREDIT_START + CREDIT_EXTRA / 1024);
    for (unsigned i = 1; i < 1024; i++)
        credit_close(&pool, &inflows[i]);
    CHECK(grown(&pool, &inflows[0]) == CREDIT_MOST);
    credit_close(&pool, &inflows[0]);
    CHECK(pool.extra == 0);
}

/* Others hold the whole pool: the start is everybody's own. */
static void an_empty_pool_leaves_the_start(void)
{
    struct credit_pool pool = {.tunnels = 1, .extra = CREDIT_EXTRA};
    struct inflow inflow;
    credit_open(&pool, &inflow);
    for (unsigned round = 0; round < 5; round++) {
        CHECK(credit_take(&inflow, CREDIT_START) && !credit_take(&inflow, 1));
        CHECK(credit_grant(&pool, &inflow, CREDIT_START) == 0);
        CHECK(credit_grant(&pool, &inflow, 0) == CREDIT_START);
        CHECK(pool.extra == CREDIT_EXTRA);
    }
}

int main(void)
{
    a_tunnel_starts_small_and_grows();
    what_is_held_is_not_granted_again();
    many_tunnels_share();
    an_empty_pool_leaves_the_start();
    return CHECK_RESULT();
}
