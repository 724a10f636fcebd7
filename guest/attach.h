/* The opening handshake of an attach (docs/guest-protocol.md, section 1): pure, no I/O. */
#ifndef AK_ATTACH_H
#define AK_ATTACH_H

#include "frame.h"

#define EPOCH_SIZE 16u
#define HELLO_SIZE 32u
#define HELLO_REPLY_SIZE 48u
#define AGENT_VERSION 1u

enum attach_state { ATTACH_CONFIGURED = 1, ATTACH_SEPARATE_USER = 2, ATTACH_INIT = 4, ATTACH_WHOLE_TREES = 8 };

struct hello {
    uint8_t epoch[EPOCH_SIZE];
    uint32_t tag;
    uint16_t version_min, version_max;
};

/* Searches `data` for a HELLO; returns how many bytes are done with (up to and including the HELLO when `*found`). */
size_t attach_scan(const uint8_t *data, size_t n, struct hello *hello, bool *found);
/* The version to speak: 0 when there is none in common. */
uint16_t attach_version(const struct hello *hello);
void attach_reply(uint8_t out[HELLO_REPLY_SIZE], const struct hello *hello, uint32_t state, const uint8_t boot_id[EPOCH_SIZE]);

#endif
