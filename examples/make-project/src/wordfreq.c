/* Counts the words of its input: `wordfreq < text`. */
#include <ctype.h>
#include <stdio.h>

#include "table.h"

int main(void)
{
    struct table table = {0};
    char word[256];
    size_t length = 0;
    int c;

    do {
        c = getchar();
        if (c != EOF && !isspace(c)) {
            if (length < sizeof word - 1)
                word[length++] = (char)c;
        } else if (length) {
            word[length] = 0;
            length = 0;
            if (!table_count(&table, word)) {
                fputs("wordfreq: out of memory\n", stderr);
                table_free(&table);
                return 1;
            }
        }
    } while (c != EOF);

    struct entry *entries = table_sorted(&table);
    for (size_t i = 0; i < table.used; i++)
        printf("%lu %s\n", entries[i].count, entries[i].word);
    table_free(&table);
    return 0;
}
