/* What is said to the sandbox's HTTP proxy for a tunnel (CONNECT, RFC 9110 section 9.3.6), and where that proxy is. */
#ifndef AK_PROXY_H
#define AK_PROXY_H

#include "sys.h"

#define PROXY_PORT 3128u        /* where no variable says another; policy/inside.py has it too */
#define PROXY_HOST_MAX 255u     /* letters of a name or address */
#define PROXY_REQUEST_MAX 640u  /* host and port twice, and what is around them */

/* The port of HTTPS_PROXY or https_proxy where that is http://127.0.0.1:PORT (with or without a slash); else PROXY_PORT. */
uint16_t proxy_port(char *const *envp);
/* Writes the request for host:port into `out`; its length, or 0 where these are no host (an IPv6 address without brackets) and port. */
size_t proxy_request(char out[PROXY_REQUEST_MAX], const char *host, const char *port);
/* The status of an answer's head of `n` bytes, 100 to 599; 0 where it is none. */
unsigned proxy_status(const char *head, size_t n);

#endif
