/* START and CONFIGURE: every length and range is checked here, once; what comes after may rely on it. */
#include "request.h"

#include "builtin.h"

enum configure_key { CONFIGURE_SECCOMP = 1, CONFIGURE_ORPHAN_MS, CONFIGURE_RLIMIT, CONFIGURE_LINGER_MS, CONFIGURE_NETWORK };
enum start_key {
    KEY_ARGV = 1,
    KEY_ENV,
    KEY_CWD,
    KEY_UID,
    KEY_GID,
    KEY_GROUP,
    KEY_TERMINAL,
    KEY_FLAGS,
    KEY_RING,
    KEY_TIMEOUT_MS,
    KEY_BUILTIN,
};

static int unknown_field(const struct field *field)
{
    return field->flags & FIELD_CRITICAL ? -EOPNOTSUPP : 0;
}

static int configure_filter(struct configuration *out, const struct field *field)
{
    if (out->filter_length || field->length % 8 || field->length > sizeof out->filter)
        return -EINVAL;
    memcpy(out->filter, field->bytes, field->length);
    out->filter_length = field->length / 8;
    return 0;
}

static int configure_limit(struct configuration *out, const struct field *field)
{
    struct limit limit = {0};
    if (field->length != 20 || out->limit_count == MAX_LIMITS)
        return -EINVAL;
    limit.resource = ak_get_u32(field->bytes);
    limit.soft = ak_get_u64(field->bytes + 4);
    limit.hard = ak_get_u64(field->bytes + 12);
    if (limit.resource >= MAX_LIMITS || limit.soft > limit.hard)
        return -EINVAL;
    out->limits[out->limit_count++] = limit;
    return 0;
}

static int configure_network(struct configuration *out, const struct field *field)
{
    if (out->has_network || field->length != 6)
        return -EINVAL;
    out->has_network = true;
    out->network.proxy = ak_get_u16(field->bytes);
    out->network.resolver = ak_get_u16(field->bytes + 2);
    out->network.transparent = ak_get_u16(field->bytes + 4);
    return 0;
}

static int configure_field(struct configuration *out, const struct field *field)
{
    switch (field->key) {
    case CONFIGURE_SECCOMP:
        return configure_filter(out, field);
    case CONFIGURE_ORPHAN_MS:
        if (field->length != 4)
            return -EINVAL;
        out->orphan_ms = ak_get_u32(field->bytes);
        return 0;
    case CONFIGURE_LINGER_MS:
        if (field->length != 4)
            return -EINVAL;
        out->linger_ms = ak_get_u32(field->bytes);
        return 0;
    case CONFIGURE_RLIMIT:
        return configure_limit(out, field);
    case CONFIGURE_NETWORK:
        return configure_network(out, field);
    default:
        return unknown_field(field);
    }
}

int configuration_parse(struct configuration *out, const uint8_t *payload, size_t n)
{
    struct fields fields = {payload, n};
    struct field field;
    int more;
    memset(out, 0, sizeof *out);
    out->orphan_ms = ORPHAN_MS_DEFAULT;
    while ((more = fields_next(&fields, &field)) > 0) {
        int error = configure_field(out, &field);
        if (error)
            return error;
    }
    return more;
}

/* Copies a field's bytes as a C string; NULL when they hold a NUL. Fits always: the NUL takes the place of the field's header. */
static char *keep_text(struct start_request *out, const struct field *field)
{
    char *text = out->text + out->text_used;
    for (uint32_t i = 0; i < field->length; i++)
        if (field->bytes[i] == 0)
            return NULL;
    if (field->length + 1 > sizeof out->text - out->text_used)
        return NULL;
    memcpy(text, field->bytes, field->length);
    text[field->length] = '\0';
    out->text_used += field->length + 1;
    return text;
}

static int keep_argument(struct start_request *out, const struct field *field)
{
    char *text = out->argc < MAX_STRINGS ? keep_text(out, field) : NULL;
    if (!text)
        return -EINVAL;
    out->argv[out->argc++] = text;
    return 0;
}

static int keep_variable(struct start_request *out, const struct field *field)
{
    char *text = out->envc < MAX_STRINGS ? keep_text(out, field) : NULL;
    const char *at = text;
    if (!text || *text == '=')
        return -EINVAL;
    while (*at && *at != '=')
        at++;
    if (!*at)
        return -EINVAL;
    out->envp[out->envc++] = text;
    return 0;
}

static int keep_directory(struct start_request *out, const struct field *field)
{
    if (field->length == 0 || field->length >= MAX_PATH || field->bytes[0] != '/')
        return -EINVAL;
    for (uint32_t i = 0; i < field->length; i++)
        if (field->bytes[i] == 0)
            return -EINVAL;
    memcpy(out->directory, field->bytes, field->length);
    out->directory[field->length] = '\0';
    return 0;
}

/* UINT32_MAX means "unchanged" to the kernel, so it is no id. */
static int keep_id(uint32_t *id, const struct field *field)
{
    if (field->length != 4 || ak_get_u32(field->bytes) == UINT32_MAX)
        return -EINVAL;
    *id = ak_get_u32(field->bytes);
    return 0;
}

static int keep_terminal(struct start_request *out, const struct field *field)
{
    if (field->length != 4)
        return -EINVAL;
    out->terminal = true;
    out->rows = ak_get_u16(field->bytes);
    out->columns = ak_get_u16(field->bytes + 2);
    return 0;
}

static int keep_number(struct start_request *out, const struct field *field)
{
    uint32_t value = field->length == 4 ? ak_get_u32(field->bytes) : 0;
    if (field->length != 4)
        return -EINVAL;
    if (field->key == KEY_FLAGS) {
        out->flags = value;
        return value & ~(uint32_t)(START_DETACHED | START_STDIN | START_ENDS_TREE) ? -EINVAL : 0;
    }
    out->ring = value;
    return value < RING_MIN || value > RING_MAX ? -EINVAL : 0;
}

static int keep_timeout(struct start_request *out, const struct field *field)
{
    if (field->length != 8)
        return -EINVAL;
    out->timeout_ms = ak_get_u64(field->bytes);
    return 0;
}

static int keep_builtin(struct start_request *out, const struct field *field)
{
    if (field->length != 2)
        return -EINVAL;
    out->builtin = ak_get_u16(field->bytes);
    return builtin_exists(out->builtin) ? 0 : -EINVAL;
}

static int keep_group(struct start_request *out, const struct field *field)
{
    if (out->group_count == MAX_GROUPS)
        return -EINVAL;
    return keep_id(&out->groups[out->group_count++], field);
}

static int start_scalar(struct start_request *out, const struct field *field)
{
    if (out->seen & 1u << field->key)
        return -EINVAL;
    out->seen |= 1u << field->key;
    switch (field->key) {
    case KEY_CWD:
        return keep_directory(out, field);
    case KEY_UID:
        return keep_id(&out->uid, field);
    case KEY_GID:
        return keep_id(&out->gid, field);
    case KEY_TERMINAL:
        return keep_terminal(out, field);
    case KEY_TIMEOUT_MS:
        return keep_timeout(out, field);
    case KEY_BUILTIN:
        return keep_builtin(out, field);
    default:
        return keep_number(out, field);
    }
}

static int start_field(struct start_request *out, const struct field *field)
{
    switch (field->key) {
    case KEY_ARGV:
        return keep_argument(out, field);
    case KEY_ENV:
        return keep_variable(out, field);
    case KEY_GROUP:
        return keep_group(out, field);
    case KEY_CWD:
    case KEY_UID:
    case KEY_GID:
    case KEY_TERMINAL:
    case KEY_FLAGS:
    case KEY_RING:
    case KEY_TIMEOUT_MS:
    case KEY_BUILTIN:
        return start_scalar(out, field);
    default:
        return unknown_field(field);
    }
}

int start_request_parse(struct start_request *out, const uint8_t *payload, size_t n)
{
    struct fields fields = {payload, n};
    struct field field;
    int more;
    memset(out, 0, offsetof(struct start_request, directory));
    out->uid = out->gid = UINT32_MAX;
    out->ring = RING_DEFAULT;
    out->text_used = 0;
    memcpy(out->directory, "/", 2);
    while ((more = fields_next(&fields, &field)) > 0) {
        int error = start_field(out, &field);
        if (error)
            return error;
    }
    out->argv[out->argc] = NULL;
    out->envp[out->envc] = NULL;
    return more ? more : out->argc ? 0 : -EINVAL;
}
