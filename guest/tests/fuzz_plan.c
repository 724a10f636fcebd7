/* Fuzzes the plan's reader: whatever it accepts must be readable to its end, with texts inside the plan. */
#include "plan.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void read_text(const struct plan_value *value, const uint8_t *data, size_t size)
{
    const uint8_t *text = (const uint8_t *)value->text;
    volatile uint8_t sink = 0;
    require(text >= data && value->length <= size && text + value->length <= data + size);
    for (uint32_t i = 0; i < value->length; i++)
        sink = (uint8_t)(sink + text[i]);
}

static void read_plan(const uint8_t *data, size_t size)
{
    struct plan_fault fault;
    struct plan_cursor cursor;
    struct plan_step step = {0};
    uint32_t count = 0;
    if (!plan_check(data, size, &fault)) {
        require(fault.offset <= size);
        return;
    }
    require(plan_begin(&cursor, data, size));
    for (; plan_next(&cursor, &step); count++)
        for (unsigned i = 0; i < PLAN_ARGUMENTS_MAX; i++)
            if (step.arguments[i].text)
                read_text(&step.arguments[i], data, size);
    require(count == cursor.count && cursor.at == size && (step.op == PLAN_AGENT || step.op == PLAN_PROGRAM));
}

/* The input as it is, and as the steps of a plan whose head is right but for the count: past the magic the fuzzer finds its own way. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t magic[8] = {'A', 'K', 'P', 'L', 'A', 'N', '1', '\n'};
    uint8_t *plan = malloc(sizeof magic + size);
    require(plan);
    memcpy(plan, magic, sizeof magic);
    if (size)
        memcpy(plan + sizeof magic, data, size);
    read_plan(data, size);
    read_plan(plan, sizeof magic + size);
    free(plan);
    return 0;
}
