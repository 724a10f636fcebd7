/* CONFIGURE and START: the vectors, and the ranges of every field. */
#include "request.h"

#include "check.h"
#include "vectors.h"

static struct start_request request;
static struct configuration configuration;

static const struct vector *find(const char *name)
{
    for (size_t i = 0; i < VECTOR_COUNT; i++)
        if (ak_streq(vectors[i].name, name))
            return &vectors[i];
    printf("no vector %s\n", name);
    exit(1);
}

static int parse(const uint8_t *payload, size_t n)
{
    uint8_t *copy = check_copy(payload, n);
    int error = start_request_parse(&request, copy, n);
    free(copy);
    return error;
}

static void a_full_start_is_understood(void)
{
    const struct vector *v = find("start_full");
    CHECK(parse(v->bytes + FRAME_HEADER, v->payload_size) == 0);
    CHECK(request.argc == 3 && ak_streq(request.argv[0], "sh") && ak_streq(request.argv[2], "") && !request.argv[3]);
    CHECK(request.envc == 2 && ak_streq(request.envp[1], "A=b=c") && !request.envp[2]);
    CHECK(ak_streq(request.directory, "/w") && request.uid == 1000 && request.gid == 1001);
    CHECK(request.group_count == 2 && request.groups[1] == 20);
    CHECK(request.terminal && request.rows == 24 && request.columns == 80);
    CHECK(request.flags == 3 && request.ring == 65536 && request.timeout_ms == 1500 && !request.builtin);
}

static void defaults_are_those_of_the_contract(void)
{
    const struct vector *v = find("start_minimal");
    CHECK(parse(v->bytes + FRAME_HEADER, v->payload_size) == 0);
    CHECK(ak_streq(request.directory, "/") && request.uid == UINT32_MAX && request.gid == UINT32_MAX);
    CHECK(!request.group_count && !request.terminal && !request.flags && request.ring == 262144 && !request.timeout_ms);
    v = find("configure_empty");
    CHECK(configuration_parse(&configuration, v->bytes + FRAME_HEADER, v->payload_size) == 0);
    CHECK(configuration.orphan_ms == 60000 && !configuration.filter_length && !configuration.limit_count);
}

static void a_configuration_is_understood(void)
{
    const struct vector *v = find("configure");
    CHECK(configuration_parse(&configuration, v->bytes + FRAME_HEADER, v->payload_size) == 0);
    CHECK(configuration.filter_length == 2 && configuration.orphan_ms == 60000 && configuration.limit_count == 2);
    CHECK(configuration.limits[0].resource == 7 && configuration.limits[0].hard == 4096);
    CHECK(!configuration.network.proxy && !configuration.network.resolver && !configuration.network.transparent);
    v = find("configure_network");
    CHECK(configuration_parse(&configuration, v->bytes + FRAME_HEADER, v->payload_size) == 0);
    CHECK(configuration.network.proxy == 3128 && configuration.network.resolver == 53 && configuration.network.transparent == 3129);
}

static void every_vector_of_a_bad_payload_is_refused(void)
{
    for (size_t i = 0; i < BAD_PAYLOAD_COUNT; i++) {
        const struct bad_payload *bad = &bad_payloads[i];
        if (bad->type == FRAME_START)
            CHECK(parse(bad->bytes, bad->size) == -(int)bad->error);
        if (bad->type == FRAME_CONFIGURE)
            CHECK(configuration_parse(&configuration, bad->bytes, bad->size) == -(int)bad->error);
    }
}

/* ARGV "x" and one more field. */
static int parse_with(uint16_t key, const void *bytes, uint32_t n)
{
    uint8_t payload[9000] = {1, 0, 0, 0, 1, 0, 0, 0, 'x'};
    ak_put_u16(payload + 9, key);
    ak_put_u32(payload + 13, n);
    memcpy(payload + 17, bytes, n);
    return parse(payload, 17 + n);
}

static int parse_number(uint16_t key, uint64_t value, uint32_t n)
{
    return parse_with(key, &value, n);
}

static void ranges_are_kept(void)
{
    static char path[5000];
    memset(path, 'a', sizeof path);
    path[0] = '/';
    CHECK(parse_with(3, path, 4095) == 0 && parse_with(3, path, 4096) == -EINVAL && parse_with(3, path, 0) == -EINVAL);
    CHECK(parse_with(3, "/a\0b", 4) == -EINVAL);
    CHECK(parse_number(4, UINT32_MAX, 4) == -EINVAL && parse_number(4, 0, 4) == 0);
    CHECK(parse_number(9, 4096, 4) == 0 && parse_number(9, 4u << 20, 4) == 0 && parse_number(9, (4u << 20) + 1, 4) == -EINVAL);
    CHECK(parse_number(8, 7, 4) == 0 && parse_number(8, 8, 4) == -EINVAL);
    CHECK(parse_number(11, 1, 2) == 0 && parse_number(11, 12, 2) == 0 && parse_number(11, 0, 2) == -EINVAL && parse_number(11, 13, 2) == -EINVAL);
    CHECK(parse_number(7, 1, 2) == -EINVAL && parse_number(10, 1, 4) == -EINVAL);
    CHECK(parse_with(2, "=x", 2) == -EINVAL && parse_with(2, "A=", 2) == 0 && parse_with(2, "A\0=", 3) == -EINVAL);
    CHECK(parse_number(500, 1, 4) == 0);
}

static void the_longest_lists_fit(void)
{
    uint8_t *payload = calloc(1, MAX_PAYLOAD);
    for (size_t at = 0; at < MAX_PAYLOAD; at += FIELD_HEADER)
        payload[at] = at % 16 ? 1 : 1;
    CHECK(parse(payload, MAX_PAYLOAD) == 0 && request.argc == MAX_STRINGS && !request.argv[MAX_STRINGS]);
    memset(payload, 'x', MAX_PAYLOAD);
    ak_put_u16(payload, 1);
    ak_put_u16(payload + 2, 0);
    ak_put_u32(payload + 4, MAX_PAYLOAD - 8);
    CHECK(parse(payload, MAX_PAYLOAD) == 0 && strlen(request.argv[0]) == MAX_PAYLOAD - 8);
    free(payload);
}

static void a_scalar_comes_once(void)
{
    static const uint8_t twice[] = {1, 0, 0, 0, 1, 0, 0, 0, 'x', 4, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0};
    CHECK(parse(twice, sizeof twice) == -EINVAL);
}

int main(void)
{
    a_full_start_is_understood();
    defaults_are_those_of_the_contract();
    a_configuration_is_understood();
    every_vector_of_a_bad_payload_is_refused();
    ranges_are_kept();
    the_longest_lists_fit();
    a_scalar_comes_once();
    return CHECK_RESULT();
}
