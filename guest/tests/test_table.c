/* The records and the memory of results: limits, eviction of the oldest, slots used again. */
#include "table.h"

#include "check.h"
#include "result.h"

static struct table table;

static void end(struct process *p)
{
    struct process *oldest;
    p->state = PROCESS_ENDED;
    oldest = table_mark_ended(&table, p);
    if (oldest)
        table_remove(&table, oldest);
}

static void so_many_run_and_no_more(void)
{
    for (uint64_t id = 1; id <= RUNNING_MAX; id++)
        CHECK(table_add(&table, id) != NULL);
    CHECK(table_add(&table, 5000) == NULL);
    CHECK(table_find(&table, 77)->id == 77 && !table_find(&table, 5000) && !table_find(&table, 0));
}

static void the_oldest_ended_ones_go_first(void)
{
    for (uint64_t id = 1; id <= RUNNING_MAX; id++)
        end(table_find(&table, id));
    CHECK(table.ended == ENDED_MAX && table.running == 0);
    for (uint64_t id = 2001; id <= 2010; id++) {
        struct process *p = table_add(&table, id);
        CHECK(p != NULL);
        end(p);
    }
    CHECK(table.ended == ENDED_MAX);
    CHECK(!table_find(&table, 1) && !table_find(&table, 10) && table_find(&table, 11) && table_find(&table, 2010));
}

static void slots_are_used_again(void)
{
    while (table.used)
        table_remove(&table, table.slots[table.used - 1] ? table.slots[table.used - 1] : NULL);
    CHECK(table.ended == 0 && table.running == 0);
    for (int i = 0; i < 5000; i++) {
        struct process *p = table_add(&table, 9);
        CHECK(p && p->slot == 0 && table.used == 1);
        table_remove(&table, p);
    }
}

static void supervisors_are_found_by_pid(void)
{
    struct process *first = table_add(&table, 1), *second = table_add(&table, 2);
    table.supervisors[first->slot] = 100;
    table.supervisors[second->slot] = 200;
    CHECK(table_find_supervisor(&table, 200) == second && !table_find_supervisor(&table, 300));
    table_remove(&table, first);
    CHECK(!table_find_supervisor(&table, 100));
    table_remove(&table, second);
}

static void results_are_remembered_for_a_while(void)
{
    static struct results results;
    for (uint64_t id = 1; id <= RESULTS_MAX + 5; id++)
        results_add(&results, id, id % 3, id % 2 ? RESULT_PENDING : (int)id);
    CHECK(!results_find(&results, 5) && results_find(&results, 6)->error == 6);
    CHECK(results_pending(&results, 1) != NULL && results_pending(&results, 7) == NULL);
}

int main(void)
{
    so_many_run_and_no_more();
    the_oldest_ended_ones_go_first();
    slots_are_used_again();
    supervisors_are_found_by_pid();
    results_are_remembered_for_a_while();
    return CHECK_RESULT();
}
