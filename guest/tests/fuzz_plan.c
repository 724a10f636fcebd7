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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct plan_fault fault;
    struct plan_cursor cursor;
    struct plan_step step = {0};
    uint32_t count = 0;
    if (!plan_check(data, size, &fault)) {
        require(fault.offset <= size);
        return 0;
    }
    require(plan_begin(&cursor, data, size));
    for (; plan_next(&cursor, &step); count++)
        for (unsigned i = 0; i < PLAN_ARGUMENTS_MAX; i++)
            if (step.arguments[i].text)
                read_text(&step.arguments[i], data, size);
    require(count == cursor.count && cursor.at == size && step.op == PLAN_AGENT);
    return 0;
}
