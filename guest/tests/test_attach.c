/* The handshake: a HELLO is found wherever it stands, in whatever pieces it arrives, and nothing else is one. */
#include "attach.h"

#include "check.h"
#include "vectors.h"

static size_t scan(const uint8_t *bytes, size_t n, struct hello *hello, bool *found)
{
    uint8_t *copy = check_copy(bytes, n);
    size_t used = attach_scan(copy, n, hello, found);
    CHECK(used <= n);
    free(copy);
    return used;
}

static void a_hello_is_found_behind_anything(void)
{
    uint8_t bytes[100];
    for (size_t before = 0; before < 60; before++) {
        struct hello hello;
        bool found;
        for (size_t i = 0; i < before; i++)
            bytes[i] = (uint8_t)"AKCHAN1\nAKAKCHAN1"[i % 17]; /* always almost one */
        memcpy(bytes + before, vector_hello, HELLO_SIZE);
        if (before > 31) /* a complete magic among the rubbish takes 32 bytes for a look */
            bytes[before - 1] = 0;
        CHECK(scan(bytes, before + HELLO_SIZE, &hello, &found) == before + HELLO_SIZE);
        CHECK(found && hello.tag == VECTOR_TAG && hello.version_min == 1 && hello.version_max == 1);
    }
}

static void an_unfinished_hello_is_kept(void)
{
    struct hello hello;
    bool found;
    for (size_t n = 1; n < HELLO_SIZE; n++)
        CHECK(scan(vector_hello, n, &hello, &found) == 0 && !found);
}

static void what_only_looks_like_one_is_none(void)
{
    static const struct {
        size_t at;
        uint8_t byte;
    } changes[] = {{0, 'X'}, {7, 0}, {28, 1}, {31, 1}, {24, 9}};
    uint8_t bytes[HELLO_SIZE];
    struct hello hello;
    bool found;
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        memcpy(bytes, vector_hello, HELLO_SIZE);
        bytes[changes[i].at] = changes[i].byte;
        CHECK(scan(bytes, HELLO_SIZE, &hello, &found) > 0 && !found);
    }
    memcpy(bytes, vector_hello, HELLO_SIZE);
    memset(bytes + 8, 0, 4);
    CHECK(scan(bytes, HELLO_SIZE, &hello, &found) > 0 && !found);
}

static void the_highest_common_version_is_chosen(void)
{
    static const uint16_t cases[][3] = {{1, 1, 1}, {0, 1, 1}, {1, 9, 1}, {2, 9, 0}, {0, 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct hello hello = {.version_min = cases[i][0], .version_max = cases[i][1]};
        CHECK(attach_version(&hello) == cases[i][2]);
    }
}

static void the_reply_is_as_in_the_vectors(void)
{
    uint8_t out[HELLO_REPLY_SIZE], boot_id[EPOCH_SIZE];
    struct hello hello;
    bool found;
    (void)scan(vector_hello, HELLO_SIZE, &hello, &found);
    memcpy(boot_id, vector_hello_reply + 32, EPOCH_SIZE);
    attach_reply(out, &hello, 7, boot_id);
    ak_put_u16(out + 26, 1);
    CHECK(memcmp(out, vector_hello_reply, HELLO_REPLY_SIZE) == 0);
}

int main(void)
{
    a_hello_is_found_behind_anything();
    an_unfinished_hello_is_kept();
    what_only_looks_like_one_is_none();
    the_highest_common_version_is_chosen();
    the_reply_is_as_in_the_vectors();
    return CHECK_RESULT();
}
