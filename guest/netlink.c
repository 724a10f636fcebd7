/* Building, sending, and the kernel's verdict. The kernel carries messages out while they are sent, so its answers are there afterwards. */
#include "netlink.h"

#include "socket.h"

#include <linux/netlink.h>

#define AK_AF_NETLINK 16
#define AK_SOCK_RAW 3
#define AK_MSG_DONTWAIT 0x40

static void append(struct netlink *nl, const void *bytes, size_t n)
{
    size_t padded = (n + 3) & ~(size_t)3;
    if (nl->full || padded > NETLINK_BYTES - nl->used) {
        nl->full = true;
        return;
    }
    memset(nl->bytes + nl->used + n, 0, padded - n);
    memcpy(nl->bytes + nl->used, bytes, n);
    nl->used += padded;
}

void netlink_begin(struct netlink *nl, uint16_t type, uint16_t flags, const void *header, size_t n)
{
    struct nlmsghdr head = {.nlmsg_type = type, .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags), .nlmsg_seq = ++nl->sequence};
    nl->message = nl->used;
    append(nl, &head, sizeof head);
    append(nl, header, n);
}

void netlink_end(struct netlink *nl)
{
    if (!nl->full)
        ak_put_u32(nl->bytes + nl->message, (uint32_t)(nl->used - nl->message));
}

void netlink_attribute(struct netlink *nl, uint16_t type, const void *bytes, size_t n)
{
    struct nlattr head = {.nla_len = (uint16_t)(sizeof head + n), .nla_type = type};
    append(nl, &head, sizeof head);
    append(nl, bytes, n);
}

void netlink_text(struct netlink *nl, uint16_t type, const char *text)
{
    netlink_attribute(nl, type, text, strlen(text) + 1);
}

void netlink_be32(struct netlink *nl, uint16_t type, uint32_t value)
{
    uint32_t swapped = __builtin_bswap32(value);
    netlink_attribute(nl, type, &swapped, sizeof swapped);
}

size_t netlink_nest(struct netlink *nl, uint16_t type)
{
    size_t nest = nl->used;
    netlink_attribute(nl, type | NLA_F_NESTED, NULL, 0);
    return nest;
}

void netlink_unnest(struct netlink *nl, size_t nest)
{
    if (!nl->full)
        ak_put_u16(nl->bytes + nest, (uint16_t)(nl->used - nest));
}

/* Looks at one datagram of answers; 1: the acknowledgement was among them, 0: not yet, -errno. */
static sysret read_answers(const uint8_t *bytes, size_t n)
{
    sysret result = 0;
    for (size_t at = 0; n - at >= sizeof(struct nlmsghdr);) {
        struct nlmsghdr head;
        int32_t error;
        memcpy(&head, bytes + at, sizeof head);
        if (head.nlmsg_len < sizeof head || head.nlmsg_len > n - at)
            return -EPROTO;
        if (head.nlmsg_type == NLMSG_ERROR && head.nlmsg_len >= sizeof head + sizeof error) {
            memcpy(&error, bytes + at + sizeof head, sizeof error);
            if (error)
                return error < 0 ? error : -EPROTO;
            result = 1;
        }
        at += NLMSG_ALIGN(head.nlmsg_len) < n - at ? NLMSG_ALIGN(head.nlmsg_len) : n - at;
    }
    return result;
}

static sysret await_verdict(int fd)
{
    uint8_t answers[4096];
    sysret result = 0;
    while (result == 0) {
        sysret n = SYS(recvfrom, fd, answers, sizeof answers, AK_MSG_DONTWAIT, NULL, NULL);
        if (n == -EINTR)
            continue;
        result = n < 0 ? n : read_answers(answers, (size_t)n);
    }
    return result < 0 ? result : 0;
}

sysret netlink_send(const struct netlink *nl, int protocol)
{
    struct {
        uint16_t family, pad;
        uint32_t port, groups;
    } kernel = {.family = AK_AF_NETLINK};
    sysret result, fd = nl->full ? -ENOBUFS : SYS(socket, AK_AF_NETLINK, AK_SOCK_RAW | O_CLOEXEC, protocol);
    if (fd < 0)
        return fd;
    result = SYS(sendto, fd, nl->bytes, nl->used, 0, &kernel, sizeof kernel);
    if (result >= 0)
        result = await_verdict((int)fd);
    ak_close(fd);
    return result;
}
