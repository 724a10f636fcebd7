/* Finding the HELLO in a stream that may hold stale bytes of earlier hosts. */
#include "attach.h"

static bool hello_at(const uint8_t *data, struct hello *hello)
{
    memcpy(hello->epoch, data + MAGIC_SIZE, EPOCH_SIZE);
    hello->tag = ak_get_u32(hello->epoch);
    hello->version_min = ak_get_u16(data + 24);
    hello->version_max = ak_get_u16(data + 26);
    return hello->tag != 0 && ak_get_u32(data + 28) == 0 && hello->version_min <= hello->version_max;
}

size_t attach_scan(const uint8_t *data, size_t n, struct hello *hello, bool *found)
{
    size_t at = 0;
    *found = false;
    for (; at < n; at++) {
        size_t left = n - at;
        if (data[at] != (uint8_t)HELLO_MAGIC[0] || memcmp(data + at, HELLO_MAGIC, left < MAGIC_SIZE ? left : MAGIC_SIZE) != 0)
            continue;
        if (left < HELLO_SIZE)
            return at;
        if (hello_at(data + at, hello)) {
            *found = true;
            return at + HELLO_SIZE;
        }
    }
    return at;
}

uint16_t attach_version(const struct hello *hello)
{
    return hello->version_min <= AGENT_VERSION && hello->version_max >= AGENT_VERSION ? AGENT_VERSION : 0;
}

void attach_reply(uint8_t out[HELLO_REPLY_SIZE], const struct hello *hello, uint32_t state, const uint8_t boot_id[EPOCH_SIZE])
{
    memcpy(out, "AKAGENT\n", MAGIC_SIZE);
    memcpy(out + 8, hello->epoch, EPOCH_SIZE);
    ak_put_u16(out + 24, attach_version(hello));
    ak_put_u16(out + 26, AK_ARCH);
    ak_put_u32(out + 28, state);
    memcpy(out + 32, boot_id, EPOCH_SIZE);
}
