/* Bounded fuzzing without libFuzzer: seeds are changed at random for so many seconds. Arguments: seconds, seed files. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SEEDS 512
#define LARGEST 8192

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct seed {
    size_t size;
    uint8_t bytes[LARGEST];
} seeds[SEEDS];
static int seed_count = 1; /* the empty one */

static void read_seed(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || seed_count == SEEDS)
        return;
    seeds[seed_count].size = fread(seeds[seed_count].bytes, 1, LARGEST / 2, file);
    seed_count++;
    fclose(file);
}

static size_t change(uint8_t *bytes, size_t size)
{
    const struct seed *other = &seeds[rand() % seed_count];
    size_t at = size ? (size_t)rand() % size : 0, n;
    switch (rand() % 6) {
    case 0:
        if (size)
            bytes[at] ^= (uint8_t)(1 << rand() % 8);
        return size;
    case 1:
        if (size)
            bytes[at] = (uint8_t)rand();
        return size;
    case 2:
        return at; /* cut */
    case 3: /* another one behind it */
        n = other->size < LARGEST - size ? other->size : LARGEST - size;
        memcpy(bytes + size, other->bytes, n);
        return size + n;
    case 4: /* a length of all ones */
        if (size >= 4)
            memset(bytes + (at < size - 4 ? at : size - 4), 0xff, 4);
        return size;
    default: /* one byte more */
        if (size < LARGEST) {
            memmove(bytes + at + 1, bytes + at, size - at);
            size++;
        }
        return size;
    }
}

int main(int argc, char **argv)
{
    static uint8_t bytes[LARGEST];
    time_t until = time(NULL) + (argc > 1 ? atoi(argv[1]) : 1);
    unsigned long rounds = 0;
    for (int i = 2; i < argc; i++)
        read_seed(argv[i]);
    srand(1);
    for (; time(NULL) <= until; rounds++) {
        const struct seed *seed = &seeds[rand() % seed_count];
        size_t size = seed->size;
        memcpy(bytes, seed->bytes, size);
        for (int changes = rand() % 8; changes > 0; changes--)
            size = change(bytes, size);
        LLVMFuzzerTestOneInput(bytes, size);
    }
    printf("%lu inputs\n", rounds);
    return 0;
}
