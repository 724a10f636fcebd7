/* Sockets: the constants that the kernel's headers lack, and the few acts that are one system call. */
#ifndef AK_SOCKET_H
#define AK_SOCKET_H

#include "sys.h"

#include <linux/fcntl.h>
#include <linux/in.h>
#include <linux/in6.h>

#define AK_AF_UNIX 1
#define AK_AF_INET 2
#define AK_AF_INET6 10
#define AK_SOCK_STREAM 1
#define AK_SOCK_DGRAM 2
#define AK_SOCK_SEQPACKET 5
#define AK_SOL_SOCKET 1
#define AK_SO_REUSEADDR 2
#define AK_SO_SNDBUF 7
#define AK_SO_RCVBUF 8
#define AK_SO_LINGER 13
#define AK_TCP_NODELAY 1
#define AK_IPV6_V6ONLY 26
#define AK_SHUT_WR 1
#define AK_SCM_RIGHTS 1
#define AK_MSG_NOSIGNAL 0x4000
#define AK_MSG_CMSG_CLOEXEC 0x40000000

/* Room for an address of either family. */
union socket_address {
    uint16_t family;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* A port as it stands in an address, and back. */
static inline uint16_t socket_port(uint16_t port) { return (uint16_t)(port >> 8 | port << 8); }

/* 127.0.0.1 or ::1 with `port`; returns the address's length. */
static inline unsigned socket_loopback(union socket_address *address, bool ipv6, uint16_t port)
{
    *address = (union socket_address){0};
    if (ipv6) {
        address->v6 = (struct sockaddr_in6){.sin6_family = AK_AF_INET6, .sin6_port = socket_port(port)};
        address->v6.sin6_addr.s6_addr[15] = 1;
        return sizeof address->v6;
    }
    address->v4 = (struct sockaddr_in){.sin_family = AK_AF_INET, .sin_port = socket_port(port)};
    memcpy(&address->v4.sin_addr, "\x7f\0\0\1", 4);
    return sizeof address->v4;
}

/* A non-blocking socket of `type`, not inherited; the descriptor or -errno. */
static inline sysret socket_open(bool ipv6, int type)
{
    return SYS(socket, ipv6 ? AK_AF_INET6 : AK_AF_INET, type | O_CLOEXEC | O_NONBLOCK, 0);
}

static inline sysret socket_switch_on(int fd, int level, int option)
{
    int on = 1;
    return SYS(setsockopt, fd, level, option, &on, sizeof on);
}

/* Who does not read what the other sends would else cost the kernel megabytes, and none of the workload's own. Connections inherit it from their listener. */
static inline void socket_bound_buffers(int fd)
{
    int bytes = 1 << 17;
    (void)SYS(setsockopt, fd, AK_SOL_SOCKET, AK_SO_SNDBUF, &bytes, sizeof bytes);
    (void)SYS(setsockopt, fd, AK_SOL_SOCKET, AK_SO_RCVBUF, &bytes, sizeof bytes);
}

/* Small messages go out at once: what is relayed was cut into pieces by its sender already. */
static inline void socket_undelayed(int fd) { (void)socket_switch_on(fd, IPPROTO_TCP, AK_TCP_NODELAY); }

/* close(2) will reset the connection instead of ending it: the peer must not take what it has for the whole. */
static inline void socket_will_reset(int fd)
{
    int linger[2] = {1, 0};
    (void)SYS(setsockopt, fd, AK_SOL_SOCKET, AK_SO_LINGER, linger, sizeof linger);
}

#endif
