/* A hash table from words to counts. */
#ifndef TABLE_H
#define TABLE_H

#include <stddef.h>

struct entry {
    char *word;
    unsigned long count;
};

struct table {
    struct entry *entries; /* open addressing; an empty place has word == NULL */
    size_t places;
    size_t used;
};

/* Adds one to the count of `word`; returns the new count, 0 when memory is exhausted. */
unsigned long table_count(struct table *table, const char *word);

/* Moves the entries together and sorts them: most frequent first, then by word. The table cannot be counted into afterwards. */
struct entry *table_sorted(struct table *table);

void table_free(struct table *table);

#endif
