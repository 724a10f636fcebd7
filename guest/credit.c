/*
 * Each tunnel's start is set aside for good: 16 KiB each, five blocks of the store at most. What is granted beyond it comes from a pool that the
 * open tunnels share, one block for each 4 KiB: 1,024 tunnels and the whole pool fill the store and never overflow it.
 */
#include "credit.h"

void credit_open(struct credit_pool *pool, struct inflow *inflow)
{
    *inflow = (struct inflow){.window = CREDIT_START, .allowed = CREDIT_START};
    pool->tunnels++;
}

static void set_extra(struct credit_pool *pool, struct inflow *inflow, size_t pledged)
{
    uint32_t extra = pledged > CREDIT_START ? (uint32_t)pledged - CREDIT_START : 0;
    pool->extra += extra;
    pool->extra -= inflow->extra;
    inflow->extra = extra;
}

void credit_close(struct credit_pool *pool, struct inflow *inflow)
{
    set_extra(pool, inflow, 0);
    pool->tunnels--;
}

bool credit_take(struct inflow *inflow, size_t n)
{
    if (n > inflow->allowed)
        return false;
    inflow->allowed -= (uint32_t)n;
    return true;
}

static uint32_t next_window(const struct credit_pool *pool, const struct inflow *inflow)
{
    size_t share = CREDIT_START + CREDIT_EXTRA / (pool->tunnels ? pool->tunnels : 1);
    if (share > CREDIT_MOST)
        share = CREDIT_MOST;
    return inflow->window < share / 2 ? 2 * inflow->window : (uint32_t)share;
}

uint32_t credit_grant(struct credit_pool *pool, struct inflow *inflow, size_t held)
{
    size_t pledged = held + inflow->allowed, most;
    uint32_t grant;
    set_extra(pool, inflow, pledged);
    if (inflow->window < pledged || inflow->window - pledged < inflow->window / 4)
        return 0;
    inflow->window = next_window(pool, inflow);
    most = CREDIT_START + inflow->extra + (CREDIT_EXTRA - pool->extra);
    if (most > inflow->window)
        most = inflow->window;
    if (most <= pledged)
        return 0;
    grant = (uint32_t)(most - pledged);
    inflow->allowed += grant;
    set_extra(pool, inflow, most);
    return grant;
}
