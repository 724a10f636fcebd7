/* The table of tunnels: ids, places, events of connections that are gone, and turns. */
#include "tunnel.h"

#include "check.h"

static struct tunnels tunnels;

static void reset(unsigned most)
{
    memset(&tunnels, 0, sizeof tunnels);
    tunnels.most = most;
}

static void tunnels_are_found_by_id_until_they_are_over(void)
{
    struct tunnel *t;
    reset(TUNNELS_MAX);
    CHECK(!tunnels_find(&tunnels, 0) && !tunnels_find(&tunnels, 7));
    t = tunnels_add(&tunnels, 7, -1);
    CHECK(t && tunnels_find(&tunnels, 7) == t && !tunnels_find(&tunnels, 0) && tunnels.pool.tunnels == 1);
    tunnels_remove(&tunnels, t);
    CHECK(!tunnels_find(&tunnels, 7) && tunnels.count == 0 && tunnels.used == 0 && tunnels.pool.tunnels == 0);
}

static void there_is_a_limit(void)
{
    reset(TUNNELS_MAX);
    for (unsigned i = 0; i < TUNNELS_MAX; i++)
        CHECK(tunnels_add(&tunnels, 1 + i, -1));
    CHECK(!tunnels_add(&tunnels, 5000, -1));
    tunnels_remove(&tunnels, tunnels_find(&tunnels, 500));
    CHECK(tunnels_add(&tunnels, 5000, -1) == &tunnels.slots[499]);
    reset(1);
    CHECK(tunnels_add(&tunnels, 1, -1) && !tunnels_add(&tunnels, 2, -1));
}

static void ids_of_the_agent_are_new_and_marked(void)
{
    uint64_t first, second;
    reset(1);
    first = tunnels_new_id(&tunnels);
    second = tunnels_new_id(&tunnels);
    CHECK(first != second && first & TUNNEL_AGENTS && second & TUNNEL_AGENTS);
}

static void an_event_of_an_earlier_connection_is_nobody_s(void)
{
    struct tunnel *t;
    unsigned key;
    reset(TUNNELS_MAX);
    t = tunnels_add(&tunnels, 7, -1);
    key = tunnels_key(t);
    CHECK(tunnels_by_key(&tunnels, key) == t);
    tunnels_remove(&tunnels, t);
    CHECK(!tunnels_by_key(&tunnels, key));
    CHECK(tunnels_add(&tunnels, 8, -1) == t && !tunnels_by_key(&tunnels, key) && tunnels_by_key(&tunnels, tunnels_key(t)) == t);
}

static void everybody_has_a_turn_in_order(void)
{
    struct tunnel *t[4];
    reset(TUNNELS_MAX);
    CHECK(!tunnels_next(&tunnels));
    for (unsigned i = 0; i < 4; i++) {
        t[i] = tunnels_add(&tunnels, 1 + i, -1);
        tunnels_activate(&tunnels, t[i]);
        tunnels_activate(&tunnels, t[i]);
    }
    CHECK(tunnels_next(&tunnels) == t[0]);
    tunnels_activate(&tunnels, t[0]);
    tunnels_remove(&tunnels, t[2]);
    CHECK(tunnels_next(&tunnels) == t[1] && tunnels_next(&tunnels) == t[3]);
    tunnels_remove(&tunnels, t[0]); /* the only one that is queued */
    CHECK(!tunnels_next(&tunnels) && !tunnels.active_last);
    tunnels_activate(&tunnels, t[1]);
    tunnels_activate(&tunnels, t[3]);
    tunnels_remove(&tunnels, t[3]); /* the last */
    CHECK(tunnels.active_last == t[1] && tunnels_next(&tunnels) == t[1] && !tunnels_next(&tunnels));
}

int main(void)
{
    tunnels_are_found_by_id_until_they_are_over();
    there_is_a_limit();
    ids_of_the_agent_are_new_and_marked();
    an_event_of_an_earlier_connection_is_nobody_s();
    everybody_has_a_turn_in_order();
    return CHECK_RESULT();
}
