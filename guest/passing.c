/* Messages with descriptors, over sockets of fixed message boundaries. */
#include "passing.h"

#include "descriptor.h"

#include <asm/socket.h>
#include <linux/socket.h>
#include <linux/uio.h>

#ifndef AF_UNIX
#define AF_UNIX 1
#endif
#define AK_SOCK_SEQPACKET 5
#define AK_SCM_RIGHTS 1
#define AK_MSG_CTRUNC 0x8
#define AK_MSG_TRUNC 0x20
#define AK_MSG_DONTWAIT 0x40
#define AK_MSG_NOSIGNAL 0x4000
#define AK_MSG_CMSG_CLOEXEC 0x40000000

/* As sendmsg(2) and cmsg(3) have them. */
struct message {
    void *name;
    int name_length;
    struct iovec *parts;
    size_t part_count;
    void *control;
    size_t control_length;
    unsigned flags;
};

struct rights {
    size_t length;
    int level, type;
    int fds[PASSED];
};

#define RIGHTS_LENGTH (offsetof(struct rights, fds) + PASSED * sizeof(int))

sysret passing_pair(int pair[2])
{
    sysret error = SYS(socketpair, AF_UNIX, AK_SOCK_SEQPACKET | O_CLOEXEC, 0, pair);
    if (error)
        pair[0] = pair[1] = -1;
    return error;
}

sysret passing_send(int socket, enum passing_kind kind, const void *data, size_t size, const int *fds)
{
    uint32_t number = kind;
    struct iovec parts[] = {{&number, sizeof number}, {(void *)(uintptr_t)data, size}};
    struct rights rights = {.length = RIGHTS_LENGTH, .level = SOL_SOCKET, .type = AK_SCM_RIGHTS};
    struct message message = {.parts = parts, .part_count = 2};
    sysret sent;
    if (fds) {
        memcpy(rights.fds, fds, sizeof rights.fds);
        message.control = &rights;
        message.control_length = RIGHTS_LENGTH;
    }
    do
        sent = SYS(sendmsg, socket, &message, AK_MSG_DONTWAIT | AK_MSG_NOSIGNAL);
    while (sent == -EINTR);
    return sent < 0 ? sent : 0;
}

sysret passing_receive(int socket, enum passing_kind *kind, void *data, size_t room, int fds[PASSED])
{
    uint32_t number = 0;
    struct iovec parts[] = {{&number, sizeof number}, {data, room}};
    struct rights rights = {0};
    struct message message = {.parts = parts, .part_count = 2, .control = &rights, .control_length = sizeof rights};
    sysret got;
    do
        got = SYS(recvmsg, socket, &message, AK_MSG_CMSG_CLOEXEC);
    while (got == -EINTR);
    if (got < 0)
        return got;
    if (got < (sysret)sizeof number || message.flags & (AK_MSG_TRUNC | AK_MSG_CTRUNC))
        return -EPIPE;
    *kind = (enum passing_kind)number;
    for (int i = 0; i < PASSED; i++)
        fds[i] = rights.length == RIGHTS_LENGTH ? rights.fds[i] : -1;
    return got - (sysret)sizeof number;
}
