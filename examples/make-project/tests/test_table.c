#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "table.h"


int main(void)
{
    struct table table = {0};
    char word[16];

    for (int round = 1; round <= 3; round++)
        for (int i = 0; i < 1000; i++) {
            snprintf(word, sizeof word, "w%d", i);
            assert(table_count(&table, word) == (unsigned long)round);
        }
    assert(table_count(&table, "w7") == 4);
    assert(table.used == 1000);

    struct entry *entries = table_sorted(&table);
    assert(strcmp(entries[0].word, "w7") == 0 && entries[0].count == 4);
    assert(strcmp(entries[1].word, "w0") == 0 && entries[1].count == 3);
    table_free(&table);
    puts("table: ok");
    return 0;
}
