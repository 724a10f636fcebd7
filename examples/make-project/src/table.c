#include "table.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static uint64_t hash(const char *word)
{
    uint64_t value = 14695981039346656037u; /* FNV-1a */
    for (; *word; word++)
        value = (value ^ (unsigned char)*word) * 1099511628211u;
    return value;
}

static struct entry *place_of(struct entry *entries, size_t places, const char *word)
{
    size_t at = hash(word) & (places - 1);
    while (entries[at].word && strcmp(entries[at].word, word) != 0)
        at = (at + 1) & (places - 1);
    return &entries[at];
}

static int grow(struct table *table)
{
    size_t places = table->places ? table->places * 2 : 64;
    struct entry *entries = calloc(places, sizeof *entries);
    if (!entries)
        return -1;
    for (size_t i = 0; i < table->places; i++)
        if (table->entries[i].word)
            *place_of(entries, places, table->entries[i].word) = table->entries[i];
    free(table->entries);
    table->entries = entries;
    table->places = places;
    return 0;
}

unsigned long table_count(struct table *table, const char *word)
{
    if (table->used * 2 >= table->places && grow(table) < 0)
        return 0;
    struct entry *entry = place_of(table->entries, table->places, word);
    if (!entry->word) {
        size_t size = strlen(word) + 1;
        entry->word = malloc(size);
        if (!entry->word)
            return 0;
        memcpy(entry->word, word, size);
        table->used++;
    }
    return ++entry->count;
}

static int compare(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;
    if (a->count != b->count)
        return a->count < b->count ? 1 : -1;
    return strcmp(a->word, b->word);
}

struct entry *table_sorted(struct table *table)
{
    size_t kept = 0;
    for (size_t i = 0; i < table->places; i++)
        if (table->entries[i].word) {
            struct entry entry = table->entries[i];
            table->entries[i].word = NULL;
            table->entries[kept++] = entry;
        }
    if (kept)
        qsort(table->entries, kept, sizeof *table->entries, compare);
    return table->entries;
}

void table_free(struct table *table)
{
    for (size_t i = 0; i < table->places; i++)
        free(table->entries[i].word);
    free(table->entries);
    memset(table, 0, sizeof *table);
}
